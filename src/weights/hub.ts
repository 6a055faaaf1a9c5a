/**
 * From a model's name to a folder with its files: a folder is itself; `org/name` is downloaded from the hub. One GGUF file of a
 * repository is named `org/name/file.gguf`, or `org/name:Q4_K_M` by the type in its name.
 *
 * Files land in the cache layout that huggingface_hub uses (blobs by hash, snapshots of links), so that what Python has
 * downloaded is found here and the other way round. The hub's client has neither resume nor checks: here a broken download
 * goes on where it stopped, and a file whose size or hash is not the hub's is refused. Knows nothing of what the files say.
 */
import { files } from "#files";
import { UsageError } from "../core/errors.ts";
import { isGgufPath, openGguf } from "./gguf-file.ts";
import { openWeights } from "./source.ts";

export interface HubOptions {
  /** Default: the hub's own cache folder of this user. */
  readonly cacheDir?: string;
  /** Default: the public hub. */
  readonly hubUrl?: string;
  /** An access token, for private and gated models. */
  readonly token?: string;
  /** Bytes done and to do, of all files together. */
  readonly onProgress?: (stage: string, done: number, total: number) => void;
}

interface HubFile {
  readonly path: string;
  readonly size: number;
  /** sha256 of the content; or git's sha1 of a small file, which hashes "blob SIZE\0" first. */
  readonly hash: { readonly kind: "sha256" | "sha1"; readonly hex: string };
}

const smallFiles: ReadonlySet<string> = new Set([
  "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
  "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
]);
const singleFile = "model.safetensors";
const indexFile = "model.safetensors.index.json";
/** A download that brings nothing new this many times in a row has failed. */
const maxFruitlessTries = 4;

/** What goes wrong on this side. */
const diskErrors: ReadonlySet<string> = new Set(["ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "ENOTDIR"]);

type Hub = typeof import("@huggingface/hub");

/** org/name, then nothing, /file.gguf or :TYPE. */
const hubName = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(\/(?:\w[\w.-]*\/)*\w[\w.-]*\.gguf|:\w[\w.-]*)?$/i;

/**
 * The folder (or GGUF file) of the model `nameOrPath`, downloaded if need be.
 * @throws UsageError when it is neither there nor a model of the hub, or a file cannot be had whole.
 */
export async function resolveModel(nameOrPath: string, options: HubOptions = {}): Promise<string> {
  if (files.isFolder(nameOrPath) || (isGgufPath(nameOrPath) && files.isFile(nameOrPath))) return nameOrPath;
  const [, repo, choice] = hubName.exec(nameOrPath) ?? [];
  if (repo === undefined) {
    throw new UsageError(`model ${JSON.stringify(nameOrPath)}: there is no such folder or .gguf file, and it is not a name on the hub; give the folder of a checkpoint, a .gguf file, org/name or org/name/file.gguf`);
  }
  const storage = files.join(options.cacheDir ?? files.defaultHubCache(), `models--${repo.replace("/", "--")}`);
  const snapshots = files.join(storage, "snapshots");
  const ref = files.join(storage, "refs", "main");
  const hub = await import("@huggingface/hub");
  const access = { ...(options.hubUrl !== undefined && { hubUrl: options.hubUrl }), ...(options.token !== undefined && { accessToken: options.token }) };

  let commit: string;
  try {
    ({ sha: commit } = await hub.modelInfo({ name: repo, revision: "main", additionalFields: ["sha"], ...access }));
  } catch (error) {
    // Without the hub (no network), what was downloaded whole before is good enough.
    const known = files.readText(ref)?.trim();
    const found = error instanceof hub.HubApiError || known === undefined ? undefined : wholeModel(files.join(snapshots, known), choice);
    if (found !== undefined) return found;
    throw explain(hub, repo, error);
  }
  const snapshot = files.join(snapshots, commit);
  let model = snapshot;
  try {
    const listed = new Map<string, HubFile>();
    for await (const entry of hub.listFiles({ repo, revision: commit, recursive: choice !== undefined, ...access })) {
      if (entry.type !== "file" || entry.oid === undefined) continue;
      const hash = entry.lfs ? ({ kind: "sha256", hex: entry.lfs.oid.replace(/^sha256:/, "") } as const) : ({ kind: "sha1", hex: entry.oid } as const);
      // Both become names in the cache: a mirror must not choose others.
      if (!isFilePath(entry.path) || !hexOf[hash.kind].test(hash.hex)) {
        throw new UsageError(`${repo} on the hub: ${JSON.stringify(entry.path)} with the ${hash.kind} ${JSON.stringify(hash.hex)} is no file of a repository; is the hub's address (HF_ENDPOINT) one to be trusted?`);
      }
      listed.set(entry.path, { path: entry.path, size: entry.lfs?.size ?? entry.size, hash });
    }
    const request = (path: string): Promise<Blob | null> => hub.downloadFile({ repo, path, revision: commit, ...access });
    const each = (file: HubFile, onBytes: (done: number) => void): Promise<void> => download(file, storage, snapshot, request, onBytes);
    let wanted;
    if (choice === undefined) wanted = await chooseCheckpoint(repo, listed, snapshot, each);
    else {
      const paths = chooseGguf(repo, [...listed.keys()], choice);
      wanted = paths.map((path) => listed.get(path)!);
      model = files.join(snapshot, paths[0]!);
    }
    await downloadAll(wanted, each, options.onProgress ?? (() => {}));
  } catch (error) {
    throw explain(hub, repo, error);
  }
  files.writeText(ref, commit);
  return model;
}

/** What was downloaded of the model before, where all of it is there. */
function wholeModel(folder: string, choice: string | undefined): string | undefined {
  try {
    if (choice === undefined) {
      if (!files.isFile(files.join(folder, "config.json"))) return undefined;
      openWeights(folder).close();
      return folder;
    }
    const path = files.join(folder, choice.startsWith("/") ? choice.slice(1) : chooseGguf(folder, files.list(folder), choice)[0]!);
    openGguf(path, () => true).close();
    return path;
  } catch (error) {
    if (error instanceof UsageError) return undefined;
    throw error;
  }
}

/** The parts of a split file end so. */
const partSuffix = /-\d{5}-of-\d{5}(?=\.gguf$)/i;

const hexOf = { sha256: /^[0-9a-f]{64}$/, sha1: /^[0-9a-f]{40}$/ } as const;
/** Whether a path stays within the folder that it counts from. */
const isFilePath = (path: string): boolean => !/[\\\0]/.test(path) && path.split("/").every((part) => part !== "" && part !== "." && part !== "..");

/** The paths of the GGUF file that `choice` (/file.gguf, :TYPE) names, all its parts in order. */
function chooseGguf(repo: string, paths: readonly string[], choice: string): readonly string[] {
  // The rest of a model that also sees is another file, and no language model.
  const ggufs = paths.filter((path) => isGgufPath(path) && !/(^|[/.-])mmproj[.-]/i.test(path) && !path.split("/").includes("..")).sort();
  const wholes = new Map<string, string[]>();
  for (const path of ggufs) {
    const whole = path.replace(partSuffix, "");
    wholes.set(whole, [...(wholes.get(whole) ?? []), path]);
  }
  const asked = choice.slice(1);
  // model-Q4_K_M.gguf and model.Q4_K_M.gguf are both of the type Q4_K_M.
  const plain = (text: string): string => text.toLowerCase().replaceAll(".", "-");
  const isAsked = choice.startsWith("/")
    ? (whole: string, [first]: readonly string[]) => whole === asked || first === asked
    : (whole: string) => plain(whole).endsWith(`-${plain(asked)}-gguf`);
  const found = [...wholes].filter(([whole, parts]) => isAsked(whole, parts));
  if (found.length === 1) return found[0]![1];
  const list = (found.length > 1 ? found : [...wholes]).map(([, [first]]) => first).join(", ");
  throw new UsageError(`${repo} has ${found.length === 0 ? "no" : "more than one"} GGUF file for ${JSON.stringify(choice)}; ${list === "" ? "it has none at all" : `give ${repo}/ and one of ${list}`}`);
}

async function chooseCheckpoint(
  name: string, listed: ReadonlyMap<string, HubFile>, snapshot: string, each: (file: HubFile, onBytes: (done: number) => void) => Promise<void>,
): Promise<readonly HubFile[]> {
  const need = (path: string, why: string): HubFile => {
    const file = listed.get(path);
    if (!file) throw new UsageError(`${name} on the hub has no ${path}${why}`);
    return file;
  };
  const ggufs = [...listed.keys()].filter(isGgufPath);
  need("config.json", ggufs.length > 0 ? `, but GGUF files: give ${name}/ and one of ${ggufs.join(", ")}` : ", so it is not a checkpoint that can be run here");
  const wanted = [...listed.values()].filter((file) => smallFiles.has(file.path));
  if (listed.has(singleFile)) {
    wanted.push(listed.get(singleFile)!);
  } else {
    const index = need(indexFile, ` and no ${singleFile}: only checkpoints in safetensors format can be run`);
    await each(index, () => {});
    const { weight_map: map } = JSON.parse(files.readText(files.join(snapshot, indexFile))!) as { weight_map?: Record<string, unknown> };
    for (const shard of new Set(Object.values(map ?? {}))) wanted.push(need(String(shard), `, which its ${indexFile} names`));
  }
  return wanted;
}

async function downloadAll(
  wanted: readonly HubFile[], each: (file: HubFile, onBytes: (done: number) => void) => Promise<void>, onProgress: (stage: string, done: number, total: number) => void,
): Promise<void> {
  const total = wanted.reduce((bytes, file) => bytes + file.size, 0);
  let before = 0;
  for (const file of wanted) {
    await each(file, (done) => onProgress(`downloading ${file.path}`, before + done, total));
    before += file.size;
  }
}

/** Makes `snapshot/path` a link to the blob, which is downloaded unless it is there. */
async function download(file: HubFile, storage: string, snapshot: string, request: (path: string) => Promise<Blob | null>, onBytes: (done: number) => void): Promise<void> {
  const blob = files.join(storage, "blobs", file.hash.hex);
  const pointer = files.join(snapshot, file.path);
  files.makeFolder(files.join(storage, "blobs"));
  files.makeFolder(files.join(snapshot, ...file.path.split("/").slice(0, -1)));
  if (!files.isFile(blob)) {
    const incomplete = `${blob}.incomplete`;
    const resumed = files.isFile(incomplete);
    let found = await fetchWhole(file, incomplete, request, onBytes);
    // What was left from another time may itself be bad: then once from the start.
    if (found !== file.hash.hex && resumed) found = await fetchWhole(file, incomplete, request, onBytes);
    if (found !== file.hash.hex) {
      throw new UsageError(`${file.path}: what was downloaded has ${file.hash.kind} ${found}, but the hub says ${file.hash.hex}; it was deleted. Try again; if it stays so, something between here and the hub changes files`);
    }
    files.move(incomplete, blob);
  }
  onBytes(file.size);
  if (!files.isFile(pointer)) files.link(blob, pointer);
}

/** Goes on at the end of `incomplete` until the file has its size. The hash of the whole; the file is deleted when it is not the right one. */
async function fetchWhole(file: HubFile, incomplete: string, request: (path: string) => Promise<Blob | null>, onBytes: (done: number) => void): Promise<string> {
  const growing = files.grow(incomplete, file.hash.kind, file.hash.kind === "sha1" ? `blob ${file.size}\0` : "");
  try {
    for (let fruitless = 0; growing.bytes < file.size; ) {
      const begin = growing.bytes;
      let failure: unknown = "the connection ended early";
      try {
        const whole = await request(file.path);
        if (!whole) throw new UsageError(`the hub lists ${file.path}, but does not have it`);
        const rest = begin === 0 ? whole : whole.slice(begin, file.size);
        for await (const chunk of rest.stream() as unknown as AsyncIterable<Uint8Array>) {
          growing.append(chunk);
          onBytes(Math.min(growing.bytes, file.size));
          if (growing.bytes > file.size) break;
        }
      } catch (error) {
        if (error instanceof UsageError || (error as { statusCode?: number })?.statusCode !== undefined) throw error;
        failure = error;
      }
      fruitless = growing.bytes > begin ? 0 : fruitless + 1;
      if (fruitless === maxFruitlessTries) {
        const cause = failure instanceof Error ? failure.message : String(failure);
        throw new UsageError(`${file.path}: the download stopped at ${growing.bytes} of ${file.size} bytes (${cause}); run the same command again to go on from there`);
      }
    }
    const found = growing.finish();
    if (found !== file.hash.hex) files.remove(incomplete);
    return found;
  } finally {
    growing.close();
  }
}

/** Turns the client's errors into what a user can act on. */
function explain(hub: Hub, name: string, error: unknown): unknown {
  if (error instanceof UsageError) return error;
  if (error instanceof hub.HubApiError) {
    const advice = { 401: "it does not exist, or it is private or gated: accept its licence on its page and give an access token (--hf-token, HF_TOKEN)", 403: "the access token may not read it: accept its licence on its page", 404: "there is no such model" }[error.statusCode];
    return new UsageError(`there is no folder ${name} here, and the hub refuses ${name} with status ${error.statusCode}: ${advice ?? error.message}`);
  }
  const { code, message } = error as { code?: string; message?: string };
  if (code !== undefined && diskErrors.has(code)) return new UsageError(`the files of ${name} cannot be kept (${message}); make room, or choose another cache folder`);
  const cause = error instanceof Error ? [error.message, (error.cause as Error | undefined)?.message].filter(Boolean).join(": ") : String(error);
  return new UsageError(`there is no folder ${name} here, and the hub could not be asked for ${name} (${cause}); check the network, or download the model elsewhere and give its folder`);
}
