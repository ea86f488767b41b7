// What the JavaScript clients' scripts have in common. The Python ones have steps.py, which says more.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

// Runs { name: async (scenario) => ... } and prints a line of JSON for each.
export async function main(steps) {
  const scenario = JSON.parse(readFileSync(process.argv[2], "utf8"));
  for (const [step, run] of Object.entries(steps)) {
    const begin = performance.now();
    let error = null;
    try {
      await run(scenario);
    } catch (caught) {
      console.error(caught);
      error = `${caught.name}: ${caught.message}`;
      process.exitCode = 1;
    }
    console.log(JSON.stringify({ step, seconds: (performance.now() - begin) / 1000, error }));
  }
}

export function image(scenario) {
  return readFileSync(scenario.image);
}

// Anything will do where null is expected.
export function check(what, got, expected) {
  if (expected !== null) assert.deepEqual(got, expected, `${what} is ${JSON.stringify(got)}`);
}

export function checkBox(scenario, box) {
  assert.equal(box.length, 4);
  const close = box.every((side, i) => Math.abs(side - scenario.box[i]) <= scenario.box_within);
  assert.ok(close, `the box is ${box} instead of ${scenario.box}`);
}

export function checkStream(scenario, pieces) {
  check("the streamed text", pieces.join(""), scenario.recital);
  assert.ok(pieces.length >= 3, `the stream came in ${pieces.length} pieces`);
}
