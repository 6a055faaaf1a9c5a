/**
 * Compares the key a client sends with the keys the operator set, in a time that tells nothing about how much of it is right. Which key it
 * was says whose request it is: how fast an answer comes tells nobody what another tenant's prompts began with.
 */
import type { CheckedParams } from "../llm/params.ts";
import { HttpError } from "./errors.ts";

const encoder = new TextEncoder();
const digest = async (text: string) => new Uint8Array(await crypto.subtle.digest("SHA-256", encoder.encode(text)));

/** Resolves to the tenant when `authorization` ("Bearer KEY") carries one of `keys`, throws HttpError 401 otherwise. */
export function keyCheck(keys: readonly string[]): (authorization: string | null) => Promise<string> {
  const allowed = Promise.all(keys.map(digest));
  return async (authorization) => {
    const given = await digest(/^Bearer (.*)$/i.exec(authorization ?? "")?.[1] ?? "");
    let found = -1;
    // Hashes of equal length, all bytes of all keys: no early exit.
    for (const [at, key] of (await allowed).entries()) {
      let different = authorization === null ? 1 : 0;
      for (let i = 0; i < key.length; i++) different |= key[i]! ^ given[i]!;
      found = different === 0 ? at : found;
    }
    if (found >= 0) return `key ${found}`;
    throw new HttpError(401, "the API key is missing or wrong; send the header 'authorization: Bearer KEY'", null, { "www-authenticate": "Bearer" });
  };
}

/** The params of a tenant's request. Tenant and salt are fields of their own: no salt a client can send is another tenant's. */
export function salted(params: CheckedParams, tenant: string | undefined): CheckedParams {
  return tenant === undefined ? params : { ...params, cacheSalt: JSON.stringify([tenant, params.cacheSalt ?? null]) };
}
