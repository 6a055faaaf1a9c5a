/** A process that says who it is and what data it has, and then what it hears. For thread.test.ts. */
import { parent } from "#thread";

const { data, post, onMessage } = parent();
onMessage((message) => post(message));
post({ pid: process.pid, data });
