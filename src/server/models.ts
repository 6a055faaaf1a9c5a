/** GET /v1/models and /v1/models/{name}: what this server serves. */
import type { Context } from "./context.ts";
import { checkModel } from "./schema.ts";

const card = ({ llm, modelNames }: Context, id: string, created: number) => ({
  id, object: "model", created, owned_by: "tessera", root: modelNames[0], parent: null, max_model_len: llm.info.maxModelLen,
});

export function listModels(context: Context, created: number): Response {
  return Response.json({ object: "list", data: context.modelNames.map((name) => card(context, name, created)) });
}

/** Throws HttpError 404 for a name that is not served. */
export function showModel(context: Context, name: string, created: number): Response {
  checkModel({ model: name }, context.modelNames);
  return Response.json(card(context, name, created));
}
