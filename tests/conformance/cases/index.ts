/** The whole list. */
import type { Agreement, Case, Composite, Refused } from "../case.ts";
import { layouts } from "./layouts.ts";
import { masksGym } from "./masks-gym.ts";
import { masksMore } from "./masks-more.ts";
import { refused as refusedRows, rowComposites, rows } from "./rows.ts";
import { scoreComposites, scores } from "./scores.ts";

export const cases: readonly Case[] = [...masksGym, ...masksMore, ...scores, ...rows];
export const composites: readonly Composite[] = [...scoreComposites, ...rowComposites];
export const agreements: readonly Agreement[] = layouts;
export const refused: readonly Refused[] = refusedRows;
