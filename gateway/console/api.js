// The admin API: each request has the token in Authorization, or the session's cookie, which no script can read.
// Each refusal becomes an ApiError.

/** A request that was not answered with what was asked for; `message` is for people. */
export class ApiError extends Error {
  constructor(title, detail, { status = 0, code = null, errors = [], requestId = null } = {}) {
    super(detail);
    Object.assign(this, { title, status, code, errors, requestId });
  }
}

export class Api {
  #token;
  #onRefused;

  /** A null `token` stands for a session. `onRefused` is told when either is not, or no longer, accepted. */
  constructor(token, onRefused) {
    this.#token = token;
    this.#onRefused = onRefused;
  }

  /** Whether a person has signed in, whose name the gateway knows. */
  get isSession() {
    return this.#token === null;
  }

  /** Return the JSON at a path of the API, such as `users?limit=10`. */
  async get(path, signal) {
    return (await this.getWithTag(path, signal)).body;
  }

  /** Return the JSON at a path, and the ETag to change it with. */
  async getWithTag(path, signal) {
    const response = await this.#fetch(path, { signal });
    return { body: await response.json(), tag: response.headers.get("ETag") };
  }

  /** Send JSON, or nothing; return the answer's JSON, or null, and its ETag. */
  async send(method, path, body = undefined, { tag = null, signal = null } = {}) {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    if (tag !== null) headers["If-Match"] = tag;
    const response = await this.#fetch(path, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    return { body: text ? JSON.parse(text) : null, tag: response.headers.get("ETag") };
  }

  /**
   * Yield the data of each server-sent event, until the stream ends. An EventSource would not do: it
   * cannot send a token. `onOpen` is told when the stream stands.
   */
  async *events(path, signal, onOpen) {
    const response = await this.#fetch(path, { signal, headers: { Accept: "text/event-stream" } });
    onOpen();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (text + value).split(/\r?\n\r?\n/);
      text = blocks.pop();
      for (const block of blocks) {
        const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).replace(/^ /, "")).join("\n");
        if (data) yield JSON.parse(data);
      }
    }
  }

  async #fetch(path, options) {
    const proof = this.#token === null ? { "X-Gateway-Console": "1" } : { Authorization: `Bearer ${this.#token}` };
    let response;
    try {
      response = await fetch(`v1/${path}`, {
        ...options,
        headers: { Accept: "application/json", ...options.headers, ...proof },
        cache: "no-store",
        credentials: this.#token === null ? "same-origin" : "omit",
        redirect: "error",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The gateway does not answer", "Check that it runs, and that this browser can reach its admin port.");
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status === 401) this.#onRefused(problem);
    throw problem;
  }
}

/** Ask who has signed in by OpenID Connect: {oidc, person}; without an answer, the token is all there is. */
export async function signedIn() {
  try {
    const response = await fetch("console/session", { cache: "no-store", credentials: "same-origin", redirect: "error" });
    if (response.ok) return await response.json();
  } catch {
    // The page says so when the token is sent.
  }
  return { oidc: false, person: null };
}

/** End the session in this browser. */
export async function signOut() {
  await fetch("console/logout", {
    method: "POST", headers: { "X-Gateway-Console": "1" }, credentials: "same-origin", redirect: "error",
  });
}

async function problemOf(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy between this browser and the gateway answered in its own format.
  }
  return new ApiError(problem.title ?? `The answer was ${response.status}`, problem.detail ?? "", {
    status: response.status,
    code: problem.code,
    errors: problem.errors,
    requestId: problem.request_id ?? response.headers.get("X-Request-Id"),
  });
}
