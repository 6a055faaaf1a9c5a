/** The places that compute in 16 bits: the reference in cuda's place, and cuda where there is one. Where there is none it is skipped, and its own error says why. */
import type { Backend } from "../../src/backend/backend.ts";
import { openBackend } from "../../src/backend/registry.ts";
import { UsageError } from "../../src/core/errors.ts";

export interface SixteenBit {
  readonly name: "reference as cuda" | "cuda";
  readonly open: () => Promise<Backend>;
  readonly skip: string | false;
}

async function whyNot(): Promise<string | false> {
  try {
    await (await openBackend("cuda")).close();
    return false;
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
}

export const sixteenBit: readonly SixteenBit[] = [
  { name: "reference as cuda", open: () => openBackend("reference", { as: "cuda" }), skip: false },
  { name: "cuda", open: () => openBackend("cuda"), skip: await whyNot() },
];
