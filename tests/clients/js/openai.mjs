// OpenAI's client: chat completions and responses.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { check, checkBox, checkStream, image as read, main, parameters } from "./steps.mjs";

const tools = [{ type: "function", function: { name: "get_weather", description: "Get the weather in a city.", parameters } }];

function client(scenario) {
  return new OpenAI({ baseURL: `${scenario.url}/v1`, apiKey: scenario.key, maxRetries: 0 });
}

function dataUrl(scenario) {
  return `data:image/png;base64,${read(scenario).toString("base64")}`;
}

function withImage(scenario, question) {
  const parts = [
    { type: "image_url", image_url: { url: dataUrl(scenario) } },
    { type: "text", text: question },
  ];
  return [{ role: "user", content: parts }];
}

async function image(scenario) {
  const answer = await client(scenario).chat.completions.create({
    model: scenario.model,
    messages: withImage(scenario, scenario.describe),
  });
  check("the answer", answer.choices[0].message.content, scenario.description);
}

async function tool(scenario) {
  const messages = [{ role: "user", content: scenario.weather }];
  const ask = () => client(scenario).chat.completions.create({ model: scenario.model, messages, tools });
  const [calling] = (await ask()).choices;
  check("the reason", calling.finish_reason, "tool_calls");
  const [call] = calling.message.tool_calls;
  check("the call", JSON.parse(call.function.arguments), { city: scenario.city });
  messages.push(calling.message, { role: "tool", tool_call_id: call.id, content: scenario.report });
  check("the answer", (await ask()).choices[0].message.content, scenario.forecast);
}

async function structured(scenario) {
  const answer = await client(scenario).chat.completions.parse({
    model: scenario.model,
    messages: withImage(scenario, scenario.locate),
    response_format: zodResponseFormat(z.object({ bbox_2d: z.array(z.int()) }), "box"),
  });
  checkBox(scenario, answer.choices[0].message.parsed.bbox_2d);
}

async function stream(scenario) {
  const chunks = await client(scenario).chat.completions.create({
    model: scenario.model,
    messages: [{ role: "user", content: scenario.recite }],
    stream: true,
    stream_options: { include_usage: true },
  });
  const pieces = [];
  let usage = null;
  for await (const chunk of chunks) {
    if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
    usage = chunk.usage ?? usage;
  }
  checkStream(scenario, pieces);
  check("whether tokens were counted", usage?.completion_tokens > 0, true);
}

// The helper puts the deltas together and calls the function by itself.
async function streamed_tool(scenario) {
  const cities = [];
  const get_weather = ({ city }) => {
    cities.push(city);
    return scenario.report;
  };
  const runner = client(scenario).chat.completions.runTools({
    model: scenario.model,
    messages: [{ role: "user", content: scenario.weather }],
    tools: [{ type: "function", function: { ...tools[0].function, function: get_weather, parse: JSON.parse } }],
    stream: true,
  });
  check("the answer", await runner.finalContent(), scenario.forecast);
  check("the calls", cities, [scenario.city]);
}

async function responses(scenario) {
  const input = [
    {
      role: "user",
      content: [
        { type: "input_image", image_url: dataUrl(scenario), detail: "auto" },
        { type: "input_text", text: scenario.describe },
      ],
    },
  ];
  const answer = await client(scenario).responses.create({ model: scenario.model, input });
  check("the answer", answer.output_text, scenario.description);
}

async function streamed_response(scenario) {
  const events = client(scenario).responses.stream({ model: scenario.model, input: scenario.recite });
  const pieces = [];
  for await (const event of events) if (event.type === "response.output_text.delta") pieces.push(event.delta);
  checkStream(scenario, pieces);
  check("the whole text", (await events.finalResponse()).output_text, scenario.recital);
}

await main({ image, tool, structured, stream, streamed_tool, responses, streamed_response });
