// An agent service for Flyte in plain TypeScript: node build/main.js --port 8000 --state jobs

import { join } from "node:path";
import { parseArgs } from "node:util";
import * as grpc from "@grpc/grpc-js";
import { HealthImplementation } from "grpc-health-check";
import { StampAgent, TASK_TYPE } from "./agent.js";
import { serve } from "./flyte.js";
import { Jobs } from "./jobs.js";

const { values } = parseArgs({
  options: { port: { type: "string", default: "8000" }, state: { type: "string", default: "jobs" } },
});

// Engines send inputs of up to 10 MiB; gRPC's own limit is 4.
const server = new grpc.Server({ "grpc.max_receive_message_length": 16 * 1024 * 1024 });
const services = serve(server, join(__dirname, "flyte.binpb"), new StampAgent(new Jobs(values.state)));
const health = new HealthImplementation(Object.fromEntries(["", ...services].map((name) => [name, "SERVING"])));
health.addToServer(server);

server.bindAsync(`127.0.0.1:${values.port}`, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) {
    console.error(error.message);
    process.exit(1);
  }
  console.log(`serving ${TASK_TYPE} at 127.0.0.1:${port}`);
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.once(signal, () => {
    ["", ...services].forEach((name) => health.setStatus(name, "NOT_SERVING"));
    server.tryShutdown(() => process.exit(0));
  });
}
