// The parts of Flyte's messages that this agent reads and writes, and the services that its engines call.

import { readFileSync } from "node:fs";
import * as grpc from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer } from "@grpc/proto-loader";

export interface Literal {
  scalar?: { primitive?: { integer?: string | number; string_value?: string } | null } | null;
}

/** Literals by name. On the wire a map is a list of entries, and proto-loader reads it as such. */
export interface LiteralMap {
  literals: { key: string; value: Literal }[];
}

export interface CreateTaskRequest {
  template: { type: string; task_type_version: number } | null;
  inputs: LiteralMap | null;
  output_prefix: string;
}

export interface JobRequest {
  task_type: string; // all that engines before Flyte 1.11 send
  task_category: { name: string; version: number } | null;
  resource_meta: Buffer;
}

export interface Resource {
  phase: "QUEUED" | "RUNNING" | "SUCCEEDED" | "ABORTED" | "FAILED" | "RETRYABLE_FAILED";
  message?: string;
  outputs?: LiteralMap;
  agent_error?: { code: string; kind: "NON_RECOVERABLE" | "RECOVERABLE" };
}

export interface AnnouncedAgent {
  name: string;
  supported_task_types: string[]; // what engines before Flyte 1.11 read
  supported_task_categories: { name: string; version: number }[];
}

/** What an agent service does. A method throws a `Refusal` to answer with a gRPC status. */
export interface Methods {
  CreateTask(request: CreateTaskRequest): { resource_meta: Buffer };
  GetTask(request: JobRequest): { resource: Resource };
  DeleteTask(request: JobRequest): object;
  ListAgents(): { agents: AnnouncedAgent[] };
  GetAgent(request: { name: string }): { agent: AnnouncedAgent };
}

export class Refusal extends Error {
  constructor(
    readonly code: grpc.status,
    message: string,
  ) {
    super(message);
  }
}

// The messages of both generations share their bytes, so Flyte 2's methods are Flyte 1's under other names.
const FLYTE2_NAMES: Record<string, string> = { ListAgents: "ListConnectors", GetAgent: "GetConnector" };
const SERVICES: [string, string, (keyof Methods)[]][] = [
  ["flyteidl.service.AsyncAgentService", "flyteidl2.connector.AsyncConnectorService", ["CreateTask", "GetTask", "DeleteTask"]],
  ["flyteidl.service.AgentMetadataService", "flyteidl2.connector.ConnectorMetadataService", ["ListAgents", "GetAgent"]],
];

/** Add the services of both generations to a server, and tell their names. */
export function serve(server: grpc.Server, descriptors: string, methods: Methods): string[] {
  const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };
  const loaded = loadFileDescriptorSetFromBuffer(readFileSync(descriptors), options);
  const served: string[] = [];
  for (const [flyte1, flyte2, names] of SERVICES) {
    const definition = loaded[flyte1] as grpc.ServiceDefinition;
    for (const service of [flyte1, flyte2]) {
      const methodsOfService: Record<string, grpc.MethodDefinition<unknown, unknown>> = {};
      const handlers: Record<string, grpc.handleUnaryCall<any, unknown>> = {};
      for (const name of names) {
        const served = service === flyte2 ? (FLYTE2_NAMES[name] ?? name) : name;
        methodsOfService[served] = { ...definition[name]!, path: `/${service}/${served}` };
        handlers[served] = (call, callback) => answer(() => methods[name](call.request), callback);
      }
      server.addService(methodsOfService, handlers);
      served.push(service);
    }
  }
  return served;
}

function answer(work: () => unknown, callback: grpc.sendUnaryData<unknown>): void {
  try {
    callback(null, work());
  } catch (error) {
    const code = error instanceof Refusal ? error.code : grpc.status.INTERNAL;
    callback({ code, details: error instanceof Error ? error.message : String(error) });
  }
}
