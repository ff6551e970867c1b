// Stamps: numbers that make the SHA-256 digest of a text begin with zeros. Finding one takes work, checking it none.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface State {
  end?: "done" | "cancelled";
  tried: number;
  digest: string;
}

const AT_ONCE = 1000; // tries between two looks at the network

export class Jobs {
  private readonly states = new Map<string, State>();

  constructor(private readonly folder: string) {
    mkdirSync(folder, { recursive: true });
  }

  /** Begin a job unless it runs or is over, and tell its state. */
  start(id: string, text: string, zeros: number): State {
    const known = this.look(id);
    if (known) return known;
    const state: State = { tried: 0, digest: "" };
    this.states.set(id, state);
    const prefix = "0".repeat(zeros);
    const work = (): void => {
      for (let left = AT_ONCE; left > 0 && !state.end; left--) {
        state.digest = createHash("sha256").update(`${text}${state.tried}`).digest("hex");
        if (state.digest.startsWith(prefix)) {
          this.finish(id, state, "done");
        } else {
          state.tried++;
        }
      }
      if (!state.end) setImmediate(work);
    };
    setImmediate(work);
    return state;
  }

  /** End a job, also one that only an earlier process knew. One that is over stays as it is. */
  cancel(id: string): void {
    const state = this.look(id) ?? { tried: 0, digest: "" };
    if (!state.end) this.finish(id, state, "cancelled");
  }

  private look(id: string): State | undefined {
    const known = this.states.get(id);
    if (known) return known;
    try {
      const state = JSON.parse(readFileSync(this.file(id), "utf8")) as State;
      this.states.set(id, state);
      return state;
    } catch {
      return undefined; // never begun, or cut off by a restart
    }
  }

  private finish(id: string, state: State, end: "done" | "cancelled"): void {
    const draft = `${this.file(id)}.new`;
    writeFileSync(draft, JSON.stringify({ ...state, end }));
    renameSync(draft, this.file(id));
    state.end = end;
    this.states.set(id, state);
  }

  /** Named by a hash, since an id comes from the caller. */
  private file(id: string): string {
    return join(this.folder, `${createHash("sha256").update(id).digest("hex")}.json`);
  }
}
