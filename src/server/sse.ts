/**
 * Server-sent events: objects in, a streamed Response out. Writes the frames itself, into a ReadableStream that is pulled.
 *
 * Nothing is written that the client has no room for: at most `limits.streamBytes` wait here. A client that leaves, or that reads
 * nothing for `stallSeconds`, ends the source; one that reads slowly does so once it is as far behind (job.ts). It does not know what is in a frame.
 */
import { errorBody, toHttpError } from "./errors.ts";
import { limits } from "./limits.ts";

const encoder = new TextEncoder();

/** One frame. JSON has no raw line ends, so one data line is enough. */
function frame(value: unknown): string {
  return `data: ${JSON.stringify(value)}\n\n`;
}

export interface StreamOptions {
  readonly stallSeconds: number;
  /** Called once when the stream is over for any reason; whatever feeds it may be ended. */
  readonly onEnd: () => void;
  /** An error that the client has been told of. */
  readonly onError: (error: unknown) => void;
}

/** A Response whose body is one frame for each of `values`, then `data: [DONE]`. An exception becomes an error frame. */
export function streamEvents(values: AsyncGenerator<unknown, void, void>, { stallSeconds, onEnd, onError }: StreamOptions): Response {
  let stalled: ReturnType<typeof setTimeout> | undefined;
  let over = false;
  const end = () => {
    clearTimeout(stalled);
    if (over) return;
    over = true;
    onEnd();
    // A generator that is busy returns once its pending step has ended, which `onEnd` brings about.
    values.return().catch(() => {});
  };
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      clearTimeout(stalled);
      try {
        const { done, value } = await values.next();
        if (over) return;
        controller.enqueue(encoder.encode(done ? "data: [DONE]\n\n" : frame(value)));
        if (done) {
          controller.close();
          end();
          return;
        }
      } catch (error) {
        if (over) return;
        onError(error);
        controller.enqueue(encoder.encode(`${frame(errorBody(toHttpError(error)))}data: [DONE]\n\n`));
        controller.close();
        end();
        return;
      }
      if ((controller.desiredSize ?? 0) > 0) return;
      stalled = setTimeout(() => {
        const error = new Error(`a streaming client read nothing for ${stallSeconds} s and was cut off`);
        // One line where it is logged: nothing went wrong here.
        error.stack = error.message;
        controller.error(error);
        end();
      }, stallSeconds * 1000);
    },
    cancel: end,
  }, new ByteLengthQueuingStrategy({ highWaterMark: limits.streamBytes }));
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no", "transfer-encoding": "chunked",
    },
  });
}
