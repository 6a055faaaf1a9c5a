/** The search for NVIDIA's libraries, on machines made of a list of paths. */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { test } from "node:test";
import { type Machine, notFound, search } from "./libraries.node.ts";

interface Made {
  readonly files: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly links?: Readonly<Record<string, string>>;
  readonly arch?: string;
}

/** A machine that has these files, and every folder above them. */
function machine({ files, env = {}, links = {}, arch = "x64" }: Made): Machine {
  const folders = new Map<string, Set<string>>();
  for (const file of files) {
    for (let path = file; path !== "/"; path = dirname(path)) {
      const folder = folders.get(dirname(path)) ?? new Set();
      folders.set(dirname(path), folder.add(path.slice(path.lastIndexOf("/") + 1)));
    }
  }
  return { env, home: "/home/me", arch, list: (folder) => [...(folders.get(folder) ?? [])], real: (path) => links[path] ?? path };
}

const files = (...args: Parameters<typeof search>): readonly string[] => search(...args).attempts.map((attempt) => attempt.file);

test("TESSERA_CUDA_PATH, wheels, conda, the linker, toolkits, Debian: in this order", () => {
  const everywhere = machine({
    files: [
      "/over/lib64/libnvrtc.so.12", "/venv/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13", "/venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
      "/conda/lib/libnvrtc.so.12", "/tk/lib64/libnvrtc.so.13", "/usr/local/cuda/lib64/libnvrtc.so.13", "/usr/local/cuda-12.4/lib64/libnvrtc.so.12",
      "/usr/local/cuda-12.10/lib64/libnvrtc.so.12", "/usr/lib/x86_64-linux-gnu/libnvrtc.so.12",
    ],
    env: { TESSERA_CUDA_PATH: "/over", VIRTUAL_ENV: "/venv", CONDA_PREFIX: "/conda", CUDA_HOME: "/tk" },
  });
  assert.deepEqual(files("nvrtc", Infinity, everywhere), [
    "/over/lib64/libnvrtc.so.12", "/venv/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13", "/venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
    "/conda/lib/libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so.12", "/tk/lib64/libnvrtc.so.13", "/usr/local/cuda/lib64/libnvrtc.so.13",
    "/usr/local/cuda-12.10/lib64/libnvrtc.so.12", "/usr/local/cuda-12.4/lib64/libnvrtc.so.12", "/usr/lib/x86_64-linux-gnu/libnvrtc.so.12",
  ]);
  assert.ok(files("nvrtc", 12, everywhere).every((file) => file.endsWith(".so.12")), "a driver of CUDA 12 gets no compiler of 13");
});

test("the Pythons on PATH are looked into, environments and what they are links to", () => {
  const made = machine({
    files: [
      "/env/bin/python3", "/env/lib/python3.11/site-packages/nvidia/cublas/lib/libcublasLt.so.12", "/opt/py/bin/python3.11", "/opt/py/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
      "/home/me/.local/lib/python3.10/site-packages/nvidia/cu13/lib/libcublasLt.so.13", "/usr/lib/python3/dist-packages/nvidia/cu13/lib/libcublasLt.so.13",
    ],
    env: { PATH: "/nothing:/env/bin:relative" }, links: { "/env/bin/python3": "/opt/py/bin/python3.11" },
  });
  assert.deepEqual(files("cublasLt", Infinity, made).filter((file) => file.startsWith("/")), [
    "/env/lib/python3.11/site-packages/nvidia/cublas/lib/libcublasLt.so.12", "/opt/py/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
    "/home/me/.local/lib/python3.10/site-packages/nvidia/cu13/lib/libcublasLt.so.13", "/usr/lib/python3/dist-packages/nvidia/cu13/lib/libcublasLt.so.13",
  ]);
});

test("NVRTC's builtins come first, those of its own version", () => {
  const made = machine({ files: ["/a/libnvrtc.so.13", "/a/libnvrtc-builtins.so.13.0", "/a/libnvrtc-builtins.so.12.8", "/a/libnvrtc-builtins.alt.so.13.0"], env: { TESSERA_CUDA_PATH: "/a" } });
  assert.deepEqual(search("nvrtc", Infinity, made).attempts[0], { file: "/a/libnvrtc.so.13", first: ["/a/libnvrtc-builtins.so.13.0"] });
});

test("the driver is the linker's, or in the folders of containers and distributions", () => {
  const made = { files: ["/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/aarch64-linux-gnu/libcuda.so.1", "/usr/local/cuda/lib64/stubs/libcuda.so.1"], arch: "arm64" };
  assert.deepEqual(files("driver", Infinity, machine(made)), ["libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/aarch64-linux-gnu/libcuda.so.1"]);
  assert.equal(files("driver", Infinity, machine({ ...made, env: { TESSERA_CUDA_PATH: "/usr/local/cuda/lib64/stubs" } }))[0], "/usr/local/cuda/lib64/stubs/libcuda.so.1");
});

test("what is not found says what to install and where it was looked for", () => {
  const { attempts, places } = search("nvrtc", Infinity, machine({ files: [], env: { TESSERA_CUDA_PATH: "/mine", CONDA_PREFIX: "/conda" } }));
  assert.deepEqual(attempts.map((attempt) => attempt.file), ["libnvrtc.so.13", "libnvrtc.so.12"], "the linker is asked anyway");
  const { message } = notFound("nvrtc", places, ["/x/libnvrtc.so.13 (wrong ELF class)"]);
  for (const part of ["pip install nvidia-cuda-nvrtc", "TESSERA_CUDA_PATH", "/mine/lib64", "/conda/lib", "/usr/local/cuda/lib64", "dynamic linker", "wrong ELF class"]) assert.ok(message.includes(part), `${part} in ${message}`);
  assert.ok(notFound("driver", [], []).message.includes("nvidia-smi"));
});
