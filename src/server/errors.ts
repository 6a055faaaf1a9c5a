/**
 * Every error a client can see: one shape, one table of kinds, and the rule that decides what of an exception may be told.
 *
 * What the client can mend is told in full; what is ours is a fixed text, and the detail goes to the operator's log only.
 */
import { BadRequest } from "../core/errors.ts";
import { GenerationFailed } from "../llm/generation.ts";

/** Names of kinds are vLLM's. */
const kinds = {
  400: "BadRequestError",
  401: "AuthenticationError",
  404: "NotFoundError",
  405: "MethodNotAllowedError",
  413: "RequestTooLargeError",
  415: "UnsupportedMediaTypeError",
  429: "RateLimitError",
  499: "ClientClosedRequest",
  500: "InternalServerError",
  503: "ServiceUnavailableError",
} as const;

export type Status = keyof typeof kinds;

/** An answer that is not 200, with further headers where they help. */
export class HttpError extends Error {
  override readonly name = "HttpError";
  readonly status: Status;
  readonly param: string | null;
  readonly headers: Readonly<Record<string, string>>;
  constructor(status: Status, message: string, param: string | null = null, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.status = status;
    this.param = param;
    this.headers = headers;
  }
}

export interface ErrorBody {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: number };
}

/** What a client is told of `error`. An exception that is not theirs gets a fixed text. */
export function toHttpError(error: unknown): HttpError {
  if (error instanceof HttpError) return error;
  if (error instanceof BadRequest) return new HttpError(400, error.message, error.param);
  if (error instanceof GenerationFailed) return new HttpError(500, error.message);
  return new HttpError(500, "the server failed on this request; its log says why");
}

export function errorBody({ message, status, param }: HttpError): ErrorBody {
  return { error: { message, type: kinds[status], param, code: status } };
}

export function errorResponse(error: HttpError): Response {
  return Response.json(errorBody(error), { status: error.status, headers: error.headers });
}
