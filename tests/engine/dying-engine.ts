/** An engine's thread that gets ready and ends at its first request, the way its parent's data says. For thread.test.ts. */
import { parent } from "#thread";
import type { FromEngine, ToEngine } from "../../src/engine/messages.ts";

const thread = parent();
const post = (message: FromEngine): void => thread.post(message);
post({
  kind: "ready",
  info: {
    architecture: "Dying", backend: "none", dtype: "none", kvCacheDtype: "none", numParameters: 0, maxModelLen: 8, vocabSize: 8, pageSize: 1, numPages: 8,
    maxNumSeqs: 1, maxNumBatchedTokens: 1, eosTokenIds: [], weightBytes: 0, kvBytes: 0, enablePrefixCaching: true, schedulingPolicy: "fcfs", loadSeconds: 0,
  },
});
thread.onMessage((message) => {
  if ((message as ToEngine).kind !== "submit") return;
  if (thread.data === "exit") process.exit(7);
  if (thread.data === "kill") process.kill(process.pid, "SIGKILL");
  throw new Error("lightning");
});
