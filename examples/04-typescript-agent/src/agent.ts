// The agent: how a request becomes a job, and a job a phase.

import { createHash, randomUUID } from "node:crypto";
import { status } from "@grpc/grpc-js";
import type { AnnouncedAgent, CreateTaskRequest, JobRequest, Literal, Methods, Resource } from "./flyte.js";
import { Refusal } from "./flyte.js";
import type { Jobs } from "./jobs.js";

export const TASK_TYPE = "stamp";
const MOST_ZEROS = 8;

/** What the engine keeps of a job and sends back with every question: all that is needed to answer. */
interface Handle {
  id: string;
  text: string;
  zeros: number;
}

const ANNOUNCED: AnnouncedAgent = {
  name: "Stamps",
  supported_task_types: [TASK_TYPE],
  supported_task_categories: [{ name: TASK_TYPE, version: 0 }],
};

export class StampAgent implements Methods {
  constructor(private readonly jobs: Jobs) {}

  // The output prefix names one attempt of one task, so asking again finds the same job: engines repeat a create
  // whose answer they lost.
  CreateTask(request: CreateTaskRequest): { resource_meta: Buffer } {
    checkServed(request.template?.type ?? "", request.template?.task_type_version ?? 0);
    const literals = Object.fromEntries((request.inputs?.literals ?? []).map(({ key, value }) => [key, value]));
    const id = createHash("sha256").update(request.output_prefix || randomUUID()).digest("hex").slice(0, 32);
    const handle: Handle = { id, text: textIn(literals), zeros: zerosIn(literals) };
    if (handle.zeros >= 0) this.jobs.start(handle.id, handle.text, handle.zeros);
    return { resource_meta: Buffer.from(JSON.stringify(handle)) };
  }

  // An error here would count against the job, so every state that can be named is a phase.
  GetTask(request: JobRequest): { resource: Resource } {
    const handle = handleOf(request);
    if (handle.zeros < 0) {
      return {
        resource: {
          phase: "FAILED",
          message: `no digest begins with ${handle.zeros} zeros`,
          agent_error: { code: "NegativeZeros", kind: "NON_RECOVERABLE" },
        },
      };
    }
    // A job that this process does not know was cut off by a restart: it goes on from the start.
    const state = this.jobs.start(handle.id, handle.text, handle.zeros);
    if (state.end === "cancelled") return { resource: { phase: "ABORTED", message: "cancelled" } };
    if (!state.end) return { resource: { phase: "RUNNING", message: `tried ${state.tried} numbers` } };
    const literals = [
      { key: "stamp", value: { scalar: { primitive: { integer: state.tried } } } },
      { key: "digest", value: { scalar: { primitive: { string_value: state.digest } } } },
    ];
    return { resource: { phase: "SUCCEEDED", outputs: { literals } } };
  }

  // Engines may ask twice, late, and for jobs that are over: all of that is fine.
  DeleteTask(request: JobRequest): object {
    const handle = handleOf(request);
    if (handle.zeros >= 0) this.jobs.cancel(handle.id);
    return {};
  }

  ListAgents(): { agents: AnnouncedAgent[] } {
    return { agents: [ANNOUNCED] };
  }

  GetAgent(request: { name: string }): { agent: AnnouncedAgent } {
    if (request.name !== ANNOUNCED.name) throw new Refusal(status.NOT_FOUND, `there is no agent ${request.name}`);
    return { agent: ANNOUNCED };
  }
}

function checkServed(name: string, version: number): void {
  if (name !== TASK_TYPE || version !== 0) {
    throw new Refusal(status.NOT_FOUND, `the task type ${name}, version ${version}, is not served here`);
  }
}

function handleOf(request: JobRequest): Handle {
  const category = request.task_category?.name ? request.task_category : { name: request.task_type, version: 0 };
  checkServed(category.name, category.version);
  try {
    const handle = JSON.parse(request.resource_meta.toString("utf8")) as Partial<Handle>;
    if (typeof handle.id === "string" && typeof handle.text === "string" && typeof handle.zeros === "number") {
      return handle as Handle;
    }
  } catch {
    // answered below
  }
  throw new Refusal(status.INVALID_ARGUMENT, "these bytes are no job of this service");
}

function textIn(literals: Record<string, Literal>): string {
  const text = literals["text"]?.scalar?.primitive?.string_value;
  if (literals["text"] && text === undefined) throw new Refusal(status.INVALID_ARGUMENT, "the input text is no string");
  return text ?? "";
}

function zerosIn(literals: Record<string, Literal>): number {
  const given = literals["zeros"];
  if (!given) return 1;
  const zeros = given.scalar?.primitive?.integer;
  if (zeros === undefined) throw new Refusal(status.INVALID_ARGUMENT, "the input zeros is no integer");
  if (Number(zeros) > MOST_ZEROS) {
    throw new Refusal(status.INVALID_ARGUMENT, `the input zeros is ${zeros}, above ${MOST_ZEROS}`);
  }
  return Number(zeros);
}
