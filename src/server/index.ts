/** What `import ... from "tessera-llm/server"` gives: the server as a function, and the same on a port of Node. */
export { createApp, type App, type AppOptions } from "./app.ts";
export { serve, type ServeOptions, type Serving } from "./node.ts";
