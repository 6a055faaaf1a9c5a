/** The engine's core in simulation, on machines whose logits the host samples; half of all operations, the other half is device.test.ts's. */
import test from "node:test";
import { simulationTests } from "./many.ts";

simulationTests(test, "host");
