/** Where messages for the operator go. Passed in, never ambient; pino's logger fits, and so does `silent`. */
export interface Logger {
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

export const silent: Logger = { info: () => {}, warn: () => {}, error: () => {} };
