/**
 * The service's API, as this page uses it: every call goes through here.
 *
 * A key is kept for the tab's session and sent in a header only. A call that is answered 401 waits
 * for the person to give a key, and is then sent again.
 */

import { serverEvents } from "./stream.js";

/**
 * @typedef {object} Model as `GET /v1/models/{id}` describes it.
 * @property {string} id
 * @property {string} family
 * @property {string} description
 * @property {string[]} tasks
 * @property {Record<string, object>} operations JSON schema of the parameters, by name.
 * @property {string[]} conditioning
 * @property {[number, number]} resolution height and width.
 * @property {number} channels
 * @property {"exact"|"lower_bound"|"estimate"|"none"} likelihood
 * @property {Record<string, any>} limits
 * @property {string[]} labels
 * @property {Record<string, any>} card
 * @property {boolean} loaded
 */

const KEY = "atelier.key";

/** An error in the words of the service. */
export class ApiError extends Error {
  /**
   * @param {string} message what was wrong and what would be right.
   * @param {{status?: number, code?: string, param?: string|null, retryAfter?: number|null,
   *   requestId?: string|null}} [about] `param` is the field at fault, `retryAfter` in seconds.
   */
  constructor(message, { status = 0, code = "", param = null, retryAfter = null, requestId = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }
}

/** Whether an error only says that the person changed their mind. */
export function isAbort(error) {
  return error?.name === "AbortError" || error?.code === "canceled";
}

/** The key of this session, or an empty string. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Keep a key for this session; an empty one is forgotten. */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** @type {() => Promise<boolean>} */
let askForKey = async () => false;
/** @type {Promise<boolean>|null} */
let asking = null;

/**
 * Say how a person is asked for a key; it resolves to whether one was given.
 *
 * @param {() => Promise<boolean>} ask
 */
export function onUnauthorized(ask) {
  askForKey = ask;
}

/** A new request id, by which the request can be withdrawn from its first moment on. */
export function newRequestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * A response that went well.
 *
 * @param {string} path
 * @param {{method?: string, body?: any, signal?: AbortSignal, accept?: string, requestId?: string}}
 *   [options] a body is sent as JSON, or as it is where it is a `FormData`.
 * @returns {Promise<Response>}
 * @throws {ApiError} the service refused; or it cannot be reached (status 0).
 */
export async function request(path, options = {}) {
  const used = apiKey();
  const response = await send(path, options);
  if (response.ok) return response;
  const error = await errorOf(response);
  if (response.status !== 401) throw error;
  // Another call may have asked meanwhile; then its key is tried first.
  const given = apiKey() !== used || (await (asking ??= askForKey().finally(() => (asking = null))));
  if (!given) throw error;
  return request(path, options);
}

async function send(path, { method, body, signal, accept = "application/json", requestId }) {
  const headers = { accept };
  if (apiKey()) headers.authorization = `Bearer ${apiKey()}`;
  if (requestId) headers["x-request-id"] = requestId;
  const isForm = body instanceof FormData;
  if (body !== undefined && !isForm) headers["content-type"] = "application/json";
  const content = body === undefined || isForm ? body : JSON.stringify(body);
  try {
    return await fetch(path, { method: method ?? (body === undefined ? "GET" : "POST"), headers, body: content, signal });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError("The service cannot be reached. Is it running?", { code: "unreachable" });
  }
}

async function errorOf(response) {
  const about = {
    status: response.status,
    retryAfter: Number(response.headers.get("retry-after")) || null,
    requestId: response.headers.get("x-request-id"),
  };
  const said = await response.json().catch(() => null);
  const detail = said?.error;
  if (detail?.message) return new ApiError(detail.message, { ...about, ...detail });
  return new ApiError(`The service answered with status ${response.status}.`, about);
}

/** The JSON that a path answers with; as `request`. */
export async function json(path, options = {}) {
  return (await request(path, options)).json();
}

/**
 * What happens to a streamed call: `queued`, `progress`, `preview`, `image`, `done`.
 *
 * @param {string} path `/v1/generate` or `/v1/edit`.
 * @param {object} body without `response`.
 * @param {{signal?: AbortSignal, requestId?: string}} [options]
 * @returns {AsyncGenerator<import("./stream.js").ServerEvent>}
 * @throws {ApiError} refused, or an `error` event ended the stream.
 */
export async function* events(path, body, options = {}) {
  const streamed = { ...body, response: "stream" };
  const response = await request(path, { ...options, body: streamed, accept: "text/event-stream" });
  for await (const found of serverEvents(response.body)) {
    if (found.event === "error") {
      const detail = found.data.error ?? {};
      throw new ApiError(detail.message ?? "The stream broke off.", { ...detail, requestId: options.requestId });
    }
    yield found;
    if (found.event === "done") return;
  }
  throw new ApiError("The connection broke off before the answer was whole.", { code: "unreachable" });
}

const name = encodeURIComponent;

/** @returns {Promise<Model[]>} every model that the key may use. */
export async function listModels(options) {
  return (await json("/v1/models", options)).data;
}

/** @returns {Promise<Model>} */
export function describeModel(id, options) {
  return json(`/v1/models/${name(id)}`, options);
}

/** @returns {Promise<Blob>} the model's sample sheet. */
export async function sampleSheet(id, options) {
  return (await request(`/v1/models/${name(id)}/sheet`, { accept: "image/*", ...options })).blob();
}

/** @returns {Promise<string>} the model's card, in Markdown. */
export async function modelCard(id, options) {
  return (await request(`/v1/models/${name(id)}/card`, { accept: "text/markdown", ...options })).text();
}

/** Withdraw a request in flight; whether it was still there. */
export async function withdraw(requestId) {
  try {
    await request(`/v1/requests/${name(requestId)}`, { method: "DELETE" });
    return true;
  } catch (error) {
    if (error.status === 404) return false;
    throw error;
  }
}
