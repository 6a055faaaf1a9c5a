/** The backends that models are tested on. A backend that is not there is skipped with the reason. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Backend } from "../../src/backend/backend.ts";
import { type Device, openBackend } from "../../src/backend/registry.ts";

export interface TestBackend {
  readonly name: "reference" | "wasm";
  readonly open: () => Promise<Backend>;
  readonly skip: string | false;
}

const devices: Readonly<Record<TestBackend["name"], Device>> = { reference: "reference", wasm: "cpu" };

export const backends = (Object.keys(devices) as TestBackend["name"][]).map((name): TestBackend => ({
  name,
  open: () => openBackend(devices[name], { threads: 2 }),
  skip: !existsSync(join(import.meta.dirname, "..", "..", "src", "backend", name, "open.ts")) && `there is no backend ${name} yet`,
}));
