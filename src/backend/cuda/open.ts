/**
 * The GPU backend's door. It knows no model.
 */
import { UsageError } from "../../core/errors.ts";
import type { Backend } from "../backend.ts";

/** @throws UsageError where there is no GPU */
export async function open(_options: object = {}): Promise<Backend> {
  throw new UsageError("device cuda is not available here; use cpu");
}
