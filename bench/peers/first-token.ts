/**
 * A process of its own that loads a model and makes one token: whoever starts it takes the time until it says so.
 *
 * Both sides go the way of their users: text in, through the package's public API.
 *
 *   node bench/peers/first-token.ts tessera|llama.cpp FILE THREADS
 */
const [side, file, threadsText] = process.argv.slice(2) as [string, string, string];
const threads = Number(threadsText);
const prompt = "Once upon a time";
const contextSize = 512;

const sides: Readonly<Record<string, () => Promise<unknown>>> = {
  "tessera": async () => {
    const { LLM } = await import("../../src/index.ts");
    const llm = await LLM.load(file, { threads, maxModelLen: contextSize, maxNumSeqs: 1, maxNumBatchedTokens: contextSize });
    for await (const { tokens } of llm.generate(prompt, { maxTokens: 1, temperature: 0, ignoreEos: true })) return tokens[0];
    return undefined;
  },
  "llama.cpp": async () => {
    const { start } = await import("./llama-cpp.ts");
    const model = await (await start(threads)).loadModel({ modelPath: file });
    const context = await model.createContext({ contextSize, batchSize: contextSize, threads, flashAttention: true });
    for await (const token of context.getSequence().evaluate(model.tokenize(prompt), { temperature: 0 })) return token;
    return undefined;
  },
};
const token = await sides[side]!();
console.log(`token ${token}`);
process.exit(token === undefined ? 1 : 0);
