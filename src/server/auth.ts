/** Compares the key a client sends with the keys the operator set, in a time that tells nothing about how much of it is right. */
import { HttpError } from "./errors.ts";

const encoder = new TextEncoder();
const digest = async (text: string) => new Uint8Array(await crypto.subtle.digest("SHA-256", encoder.encode(text)));

/** Resolves when `authorization` ("Bearer KEY") carries one of `keys`, throws HttpError 401 otherwise. */
export function keyCheck(keys: readonly string[]): (authorization: string | null) => Promise<void> {
  const allowed = Promise.all(keys.map(digest));
  return async (authorization) => {
    const given = await digest(/^Bearer (.*)$/i.exec(authorization ?? "")?.[1] ?? "");
    let ok = false;
    // Hashes of equal length, all bytes of all keys: no early exit.
    for (const key of await allowed) {
      let different = authorization === null ? 1 : 0;
      for (let i = 0; i < key.length; i++) different |= key[i]! ^ given[i]!;
      ok = different === 0 || ok;
    }
    if (ok) return;
    throw new HttpError(401, "the API key is missing or wrong; send the header 'authorization: Bearer KEY'", null, { "www-authenticate": "Bearer" });
  };
}
