/**
 * Where NVIDIA's libraries may lie: the driver's, the CUDA C++ compiler (NVRTC) and the matrix products (cuBLASLt).
 *
 * A search gives the files to try in order, and every place it looked at, so that the error for a missing one can name them.
 * Loads nothing itself; knows no function of them.
 */
import { readdirSync, realpathSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { UsageError } from "../../core/errors.ts";

export type LibraryName = "driver" | "nvrtc" | "cublasLt";

/** A file to try, by absolute path or by soname, after those of `first` have been loaded for all to see. */
export interface Attempt {
  readonly file: string;
  readonly first: readonly string[];
}

export interface Search {
  readonly attempts: readonly Attempt[];
  /** Everywhere that was looked, for people. */
  readonly places: readonly string[];
}

/** What a search asks its machine. */
export interface Machine {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly home: string;
  /** As `process.arch`. */
  readonly arch: string;
  /** Names in a folder; none where it is not there. */
  list(folder: string): readonly string[];
  /** The path without symbolic links; as it is where there is no such file. */
  real(path: string): string;
}

export const thisMachine = (): Machine => ({
  env: process.env, home: homedir(), arch: process.arch,
  list: (folder) => {
    try {
      return readdirSync(folder);
    } catch {
      return [];
    }
  },
  real: (path) => {
    try {
      return realpathSync(path);
    } catch {
      return path;
    }
  },
});

interface LibraryFacts {
  readonly what: string;
  /** `${stem}.so.${version}`. */
  readonly stem: string;
  /** Newest first. A driver runs what was made for its own CUDA version or an older one. */
  readonly versions: readonly number[];
  /** Folders in site-packages, pip's of CUDA 13 and 12. */
  readonly wheels: readonly string[];
  readonly install: string;
}

const facts: Readonly<Record<LibraryName, LibraryFacts>> = {
  driver: {
    what: "NVIDIA's driver", stem: "libcuda", versions: [1], wheels: [],
    install: "it comes with the driver (525 or newer; `nvidia-smi` shows it), and into a container by `docker run --gpus all`",
  },
  nvrtc: {
    what: "the CUDA C++ compiler", stem: "libnvrtc", versions: [13, 12], wheels: ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"],
    install: "`pip install nvidia-cuda-nvrtc` installs it (`nvidia-cuda-nvrtc-cu12` for a driver older than 580)",
  },
  cublasLt: {
    what: "NVIDIA's matrix products", stem: "libcublasLt", versions: [13, 12], wheels: ["nvidia/cu13/lib", "nvidia/cublas/lib"],
    install: "`pip install nvidia-cublas` installs it (`nvidia-cublas-cu12` for a driver older than 580)",
  },
};

const debianTriple: Readonly<Record<string, string>> = { x64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" };
/** What TESSERA_CUDA_PATH may name: the folder of the libraries, or one that has such a folder. */
const inside = ["", "lib64", "lib"];

/** The files to try for a library. `newest`: the highest CUDA major version that the driver runs. */
export function search(library: LibraryName, newest = Infinity, machine: Machine = thisMachine()): Search {
  const { stem, versions, wheels } = facts[library];
  const sonames = versions.filter((v) => library === "driver" || v <= newest).map((v) => `${stem}.so.${v}`);
  const attempts: Attempt[] = [], places: string[] = [];
  const visit = (folder: string): void => {
    if (places.includes(folder)) return;
    places.push(folder);
    const names = machine.list(folder);
    for (const soname of sonames) if (names.includes(soname)) attempts.push({ file: join(folder, soname), first: builtinsOf(soname, names).map((name) => join(folder, name)) });
  };
  const bySoname = (): void => {
    for (const soname of sonames) attempts.push({ file: soname, first: [] });
    places.push(`${sonames.join(" or ")} by the dynamic linker`);
  };

  const { TESSERA_CUDA_PATH: override } = machine.env;
  if (override) for (const folder of inside) visit(join(override, folder));
  if (library === "driver") {
    bySoname(); // the driver's installer puts it where the linker looks
    driverFolders(machine).forEach(visit);
    return { attempts, places };
  }
  for (const packages of sitePackages(machine)) for (const wheel of wheels) visit(join(packages, wheel));
  if (machine.env["CONDA_PREFIX"]) visit(join(machine.env["CONDA_PREFIX"], "lib"));
  bySoname();
  toolkits(machine).forEach((folder) => visit(join(folder, "lib64")));
  const triple = debianTriple[machine.arch];
  if (triple) visit(`/usr/lib/${triple}`);
  return { attempts, places };
}

/** What a search without result is reported as; `failures`: what the linker said of the files that were there. */
export function notFound(library: LibraryName, places: readonly string[], failures: readonly string[]): UsageError {
  const { what, stem, install } = facts[library];
  const override = library === "driver" ? "" : ", or set TESSERA_CUDA_PATH to the folder that has it";
  const said = failures.length === 0 ? "" : `\nNot usable: ${failures.join("; ")}`;
  return new UsageError(`${stem}.so, ${what}, was not found: ${install}${override}.\nLooked for in ${places.join(", ")}.${said}`);
}

/** NVRTC loads its builtins by a soname with the minor version, wherever the linker looks: they are loaded from its own folder before it asks. */
function builtinsOf(soname: string, names: readonly string[]): readonly string[] {
  const version = /^libnvrtc\.so\.(\d+)$/.exec(soname)?.[1];
  return version === undefined ? [] : names.filter((name) => new RegExp(`^libnvrtc-builtins\\.so\\.${version}\\.\\d+$`).test(name));
}

function driverFolders({ arch }: Machine): readonly string[] {
  const triple = debianTriple[arch];
  return ["/usr/local/nvidia/lib64", ...(triple ? [`/usr/lib/${triple}`] : []), "/usr/lib64", "/usr/lib/wsl/lib", "/usr/local/cuda/compat"];
}

/** The active environment's, those of the Pythons on PATH, the user's, the system's. */
function sitePackages(machine: Machine): readonly string[] {
  const { env, home, list, real } = machine;
  const prefixes: string[] = env["VIRTUAL_ENV"] ? [env["VIRTUAL_ENV"]] : [];
  for (const folder of (env["PATH"] ?? "").split(":")) {
    if (!folder.startsWith("/") || !list(folder).includes("python3")) continue;
    const python = join(folder, "python3");
    prefixes.push(dirname(folder), dirname(dirname(real(python)))); // an environment's python3 is a link to its base's
  }
  prefixes.push(join(home, ".local"), "/usr/local", "/usr");
  return prefixes.flatMap((prefix) => {
    const lib = join(prefix, "lib"), pythons = list(lib).filter((name) => /^python3(\.\d+)?$/.test(name));
    return pythons.flatMap((python) => ["site-packages", "dist-packages"].filter((name) => list(join(lib, python)).includes(name)).map((name) => join(lib, python, name)));
  });
}

/** CUDA toolkits, the newest of several first. */
function toolkits({ env, list }: Machine): readonly string[] {
  const numbered = list("/usr/local").filter((name) => /^cuda-1[23](\.\d+)?$/.test(name));
  const version = (name: string): number => Number(name.slice("cuda-".length).replace(/\.(\d)$/, ".0$1"));
  return [
    ...[env["CUDA_HOME"], env["CUDA_PATH"]].filter((folder) => folder !== undefined && folder !== ""), "/usr/local/cuda",
    ...numbered.toSorted((a, b) => version(b) - version(a)).map((name) => join("/usr/local", name)),
  ] as readonly string[];
}
