/** The text worker's thread: its tokenizer and template, and one job after the other. */
import { parent } from "#thread";
import { loadChatTemplate } from "./chat-template.ts";
import type { TextFiles } from "./files.ts";
import type { Order, Reply } from "./text-jobs.ts";
import { runJob, toFault } from "./text-jobs.ts";
import { loadTokenizer } from "./tokenizer.ts";

const { data, post, onMessage } = parent();
const files = data as TextFiles;
const tokenizer = loadTokenizer(files);
const template = loadChatTemplate(files, tokenizer.specialTokens);

onMessage((message) => {
  const { id, job } = message as Order;
  let reply: Reply;
  try {
    reply = { kind: "done", id, result: runJob(job, tokenizer, template) };
  } catch (error) {
    reply = { kind: "failed", id, fault: toFault(error) };
  }
  post(reply, reply.kind === "done" ? [reply.result.ids.buffer as ArrayBuffer] : []);
});
post({ kind: "ready" } satisfies Reply);
tokenizer.encode("a"); // The large tables are built before the first request waits for them.
