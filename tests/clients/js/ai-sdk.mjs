// The Vercel AI SDK, with its provider for compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool as asTool } from "ai";
import { z } from "zod";
import { check, checkBox, checkStream, image as read, main } from "./steps.mjs";

function model(scenario) {
  const provider = createOpenAICompatible({
    name: "epd",
    baseURL: `${scenario.url}/v1`,
    apiKey: scenario.key,
    supportsStructuredOutputs: true,
    includeUsage: true,
  });
  return provider(scenario.model);
}

function withImage(scenario, question) {
  const parts = [
    { type: "image", image: read(scenario), mediaType: "image/png" },
    { type: "text", text: question },
  ];
  return [{ role: "user", content: parts }];
}

async function image(scenario) {
  const answer = await generateText({ model: model(scenario), messages: withImage(scenario, scenario.describe) });
  check("the answer", answer.text, scenario.description);
}

// The SDK calls the function by itself and goes on with the result.
async function tool(scenario) {
  const cities = [];
  const get_weather = asTool({
    description: "Get the weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      cities.push(city);
      return scenario.report;
    },
  });
  const answer = await generateText({
    model: model(scenario),
    prompt: scenario.weather,
    tools: { get_weather },
    stopWhen: stepCountIs(2),
  });
  check("the calls", cities, [scenario.city]);
  check("the answer", answer.text, scenario.forecast);
}

async function structured(scenario) {
  const answer = await generateText({
    model: model(scenario),
    messages: withImage(scenario, scenario.locate),
    output: Output.object({ schema: z.object({ bbox_2d: z.array(z.int()) }) }),
  });
  checkBox(scenario, answer.output.bbox_2d);
}

async function stream(scenario) {
  const answer = streamText({ model: model(scenario), prompt: scenario.recite });
  const pieces = [];
  for await (const piece of answer.textStream) pieces.push(piece);
  checkStream(scenario, pieces);
  check("whether tokens were counted", (await answer.usage).outputTokens > 0, true);
}

await main({ image, tool, structured, stream });
