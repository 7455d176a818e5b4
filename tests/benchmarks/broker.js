'use strict';
// The load: as many brokers as asked for, in one process, that speak n8n's task runner protocol as far as the
// measures need it, always have work waiting, and take the time on their side of the wire.
//
// Commands come as one JSON object a line on standard input ({"do": "load", ...}); each is answered by one line on
// standard output, {"answer": ...} or {"error": "..."}. Seconds everywhere, except for the protocol's validFor.

const http = require('http');
const fs = require('fs');
const { randomBytes } = require('crypto');
const { WebSocketServer, WebSocket } = require('ws');

const AUTH_TOKEN = 'secret';
const TASK_TYPE = 'python';
const HEARTBEAT = 30;
const LIMIT_PER_SECOND = 5; // what n8n lets in: grant tokens by client address, upgrades over all clients
const PATIENCE = 15; // for the answers that are still out when a measure's window closes
const GIVEN_UP = Symbol('given up');

const now = () => performance.now() / 1000;
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** The value of the promise, or a rejection that says what was waited for. */
async function within(seconds, what, promise) {
  let timer;
  const limit = new Promise((resolve) => { timer = setTimeout(resolve, seconds * 1000, GIVEN_UP); });
  const first = await Promise.race([promise, limit]);
  clearTimeout(timer);
  if (first === GIVEN_UP) throw new Error(`${what}: not within ${seconds} s`);
  return first;
}

class Limiter {
  constructor() { this.passed = []; }

  admits() {
    const at = now();
    this.passed = this.passed.filter((earlier) => at - earlier < 1);
    if (this.passed.length >= LIMIT_PER_SECOND) return false;
    this.passed.push(at);
    return true;
  }
}

/** One runner's socket. Everything that is sent within one turn of the event loop leaves as one write. */
class Connection {
  constructor(broker, ws, socket) {
    this.ws = ws;
    this.socket = socket;
    this.registered = false;
    this.stalled = false;
    this.answeredPing = true;
    this.corked = false;
    ws.on('message', (data) => broker.receive(this, data));
    ws.on('pong', () => { this.answeredPing = true; });
    ws.on('close', () => broker.disconnected(this));
    ws.on('error', () => {}); // 'close' follows
  }

  send(text) {
    if (!this.corked) {
      this.corked = true;
      this.socket.cork();
      process.nextTick(() => { this.corked = false; this.socket.uncork(); });
    }
    this.ws.send(text);
  }

  heartbeat() {
    if (this.stalled || !this.registered) return;
    if (!this.answeredPing) return this.ws.close(1002);
    this.answeredPing = false;
    this.ws.ping();
  }
}

class Broker {
  constructor() {
    this.port = 0;
    this.limited = false;
    this.connections = new Set();
    this.grants = new Set();
    this.offers = [];
    this.requests = [];
    this.supply = null; // JSON text of the settings of a task of which there are always more
    this.tasks = new Map();
    this.nextTask = 0;
    this.latencies = [];
    this.accounts = { sent: 0, done: 0, failed: 0, rejected: 0, lost: 0, unexpected: 0, firstError: null };
    this.watchers = new Set();
    this.registrations = [];
    setInterval(() => { for (const connection of this.connections) connection.heartbeat(); }, HEARTBEAT * 1000);
  }

  // ---- being there, or not

  listen() {
    this.server = http.createServer((request, response) => this.answerHttp(request, response));
    this.upgrades = new Limiter();
    this.authentications = new Limiter();
    const sockets = new WebSocketServer({
      noServer: true, perMessageDeflate: false, maxPayload: 2 ** 30, skipUTF8Validation: true,
    });
    this.server.on('upgrade', (request, socket, head) => {
      const refusal = this.refuseUpgrade(request);
      if (refusal) return socket.end(`HTTP/1.1 ${refusal}\r\n\r\n`);
      sockets.handleUpgrade(request, socket, head, (ws) => {
        const connection = new Connection(this, ws, socket);
        this.connections.add(connection);
        connection.send('{"type":"broker:inforequest"}');
      });
    });
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(this.port, '127.0.0.1', 1024, () => {
        this.port = this.server.address().port;
        this.listeningSince = now();
        this.registrations = [];
        resolve();
      });
    });
  }

  /** As if the process had been killed: no close frame, connections refused from now on. */
  down() {
    this.server.close();
    this.server.closeAllConnections();
    for (const connection of this.connections) connection.ws.terminate();
    this.grants.clear();
  }

  answerHttp(request, response) {
    const answer = (status, body) => {
      response.writeHead(status, { 'Content-Type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    if (request.url === '/healthz') return answer(200, { status: 'ok' });
    if (request.method !== 'POST' || request.url !== '/runners/auth') return answer(404, { code: 404 });
    if (this.limited && !this.authentications.admits()) return answer(429, { message: 'Too many requests' });
    let body = '';
    request.on('data', (chunk) => { body += chunk; });
    request.on('end', () => {
      let token;
      try { token = JSON.parse(body).token; } catch { return answer(400, { code: 400 }); }
      if (token !== AUTH_TOKEN) return answer(403, { code: 403, message: 'Forbidden' });
      const grant = randomBytes(32).toString('hex');
      this.grants.add(grant);
      answer(200, { data: { token: grant } });
    });
  }

  refuseUpgrade(request) {
    const url = new URL(request.url, 'http://broker');
    if (url.pathname !== '/runners/_ws') return '404 Not Found';
    if (this.limited && !this.upgrades.admits()) return '429 Too Many Requests';
    if (!url.searchParams.get('id')) return '400 Bad Request';
    const [, grant] = /^Bearer (.+)$/i.exec(request.headers.authorization || '') || [];
    if (!grant) return '401 Unauthorized';
    return this.grants.delete(grant) ? null : '403 Forbidden';
  }

  disconnected(connection) {
    this.connections.delete(connection);
    this.offers = this.offers.filter((offer) => offer.connection !== connection);
    for (const [taskId, task] of this.tasks) {
      if (task.connection !== connection) continue;
      this.tasks.delete(taskId);
      this.accounts.lost += 1;
      if (task.ended) task.ended({ error: 'connection lost' });
    }
    this.changed();
  }

  // ---- work

  receive(connection, data) {
    const at = now(); // before a big answer is parsed
    const message = JSON.parse(data);
    switch (message.type) {
      case 'runner:taskoffer': {
        const { offerId, taskType, validFor } = message;
        if (taskType !== TASK_TYPE) return;
        const expires = validFor < 0 ? Infinity : at + validFor / 1000;
        this.offers.push({ connection, offerId, expires });
        return this.match();
      }
      case 'runner:taskaccepted': {
        const task = this.tasks.get(message.taskId);
        if (!task) return;
        connection.send(`{"type":"broker:tasksettings","taskId":"${message.taskId}","settings":${task.settings}}`);
        if (task.begun) task.begun();
        return;
      }
      case 'runner:taskrejected': {
        const task = this.tasks.get(message.taskId);
        if (!task) return;
        this.tasks.delete(message.taskId);
        this.accounts.rejected += 1;
        if (!task.supplied) this.requests.unshift(task);
        return this.match();
      }
      case 'runner:taskdone':
      case 'runner:taskerror': {
        const task = this.tasks.get(message.taskId);
        if (!task) { this.accounts.unexpected += 1; return; }
        this.tasks.delete(message.taskId);
        if (message.type === 'runner:taskdone') {
          this.accounts.done += 1;
          this.latencies.push(at - task.since);
        } else {
          this.accounts.failed += 1;
          this.accounts.firstError = this.accounts.firstError || String(message.error.message).slice(0, 300);
        }
        if (task.ended) task.ended({ seconds: at - task.since, result: message.data && message.data.result });
        if (this.tasks.size === 0) this.changed();
        return;
      }
      case 'runner:info':
        connection.registered = true;
        connection.send('{"type":"broker:runnerregistered"}');
        this.registrations.push(at - this.listeningSince);
        return this.changed();
      default:
        throw new Error(`the broker of the benchmarks does not know ${message.type}`);
    }
  }

  /** One request to run a task; `begun` is called with its settings sent, `ended` with what became of it. */
  request({ settings, begun = null, ended = null }) {
    this.requests.push({ settings, since: now(), begun, ended, supplied: false });
    this.match();
  }

  match() {
    while ((this.requests.length || this.supply) && this.offers.length) {
      const { connection, offerId, expires } = this.offers.shift();
      const at = now();
      if (expires < at || connection.ws.readyState !== WebSocket.OPEN) continue;
      const task = this.requests.shift() || { settings: this.supply, since: at, supplied: true };
      task.connection = connection;
      const taskId = (this.nextTask++).toString(36).padStart(8, '0');
      this.tasks.set(taskId, task);
      this.accounts.sent += 1;
      connection.send(
        `{"type":"broker:taskofferaccept","offerId":${JSON.stringify(offerId)},"taskId":"${taskId}"}`);
    }
  }

  // ---- waiting for something

  changed() { for (const watcher of this.watchers) watcher(); }

  until(seconds, what, condition) {
    let watcher;
    const reached = new Promise((resolve) => {
      watcher = () => { if (condition()) resolve(); };
      this.watchers.add(watcher);
      watcher();
    });
    return within(seconds, what, reached).finally(() => this.watchers.delete(watcher));
  }

  registered(runners, seconds) {
    const count = () => [...this.connections].filter((connection) => connection.registered).length;
    return this.until(seconds, `${runners} runner(s) registered on port ${this.port}`, () => count() >= runners);
  }

  /** All tasks answered; a task that stays unanswered is left in the accounts. */
  quiet() { return this.until(PATIENCE, 'all tasks answered', () => this.tasks.size === 0).catch(() => {}); }
}

/** JSON text of n8n items, about so many bytes. */
function itemsText(bytes) {
  const items = [];
  for (let size = 2, i = 0; size < bytes; i++) {
    const item = JSON.stringify({ json: {
      id: i, name: `Zoë Customer ${i}`, email: `customer.${i}@example.com`, score: i / 7, active: i % 3 === 0,
      tags: ['new', 'benchmark'], address: { street: `${i % 300} Long Street`, city: 'Berlin', country: null },
    } });
    items.push(item);
    size += item.length + 1;
  }
  return `[${items.join(',')}]`;
}

function summary(latencies) {
  const sorted = Float64Array.from(latencies).sort();
  const at = (share) => (sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null);
  return { tasks: sorted.length, p50: at(0.5), p99: at(0.99), worst: at(1) };
}

/** CPU seconds so far of this process, of the runner's, and of the whole machine. */
function cpuTimes(pid) {
  const own = process.cpuUsage();
  const tick = 100; // a second, as Linux shows times to programs
  const ofRunner = fs.readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').pop().split(' ').map(Number);
  const [, user, nice, system, , , interrupts, softInterrupts] =
    fs.readFileSync('/proc/stat', 'latin1').split('\n', 1)[0].split(/ +/).map(Number);
  return {
    broker: (own.user + own.system) / 1e6,
    runner: (ofRunner[11] + ofRunner[12]) / tick,
    machine: (user + nice + system + interrupts + softInterrupts) / tick,
  };
}

/** Return the duration of the work, and the share of one core that each process uses. */
async function watched(pid, work) {
  const before = { at: now(), ...cpuTimes(pid) };
  await work();
  const elapsed = now() - before.at;
  const after = cpuTimes(pid);
  const [broker, runner, machine] = ['broker', 'runner', 'machine'].map((who) => (after[who] - before[who]) / elapsed);
  return { elapsed, broker_cpu: broker, runner_cpu: runner, other_cpu: Math.max(0, machine - broker - runner) };
}

const brokers = [];

const commands = {
  async open({ count }) {
    while (brokers.length < count) {
      const broker = new Broker();
      await broker.listen();
      brokers.push(broker);
    }
    return brokers.map((broker) => `http://127.0.0.1:${broker.port}`);
  },

  /** Whether so many runners are registered at each broker, after waiting for it. */
  async registered({ runners, seconds }) {
    await Promise.all(brokers.map((broker) => broker.registered(runners, seconds)));
  },

  /** Every broker always has work waiting: tasks a second and latencies, from acceptance to answer. */
  async load({ warmup, seconds, pid }) {
    for (const broker of brokers) { broker.supply = '{"items":[]}'; broker.match(); }
    await sleep(warmup);
    for (const broker of brokers) broker.latencies = [];
    const { elapsed, ...cpu } = await watched(pid, () => sleep(seconds));
    const latencies = brokers.map((broker) => broker.latencies);
    for (const broker of brokers) { broker.supply = null; broker.latencies = []; }
    await Promise.all(brokers.map((broker) => broker.quiet()));
    const all = summary([].concat(...latencies));
    return {
      ...all,
      tasks_per_second: all.tasks / elapsed,
      served: latencies.map((list) => list.length),
      ...cpu,
    };
  },

  /**
   * Send a request every so many seconds, without waiting for answers: time from request to answer. Where work
   * is always waiting, a pause of the runner hides: it hits only the few tasks that are out at the time.
   */
  async pace({ broker, every, seconds, pid }) {
    const begun = now();
    brokers[broker].latencies = [];
    const cpu = await watched(pid, async () => {
      for (let i = 0; i * every < seconds; i++) {
        const early = begun + i * every - now();
        if (early > 0) await sleep(early);
        brokers[broker].request({ settings: '{"items":[]}' });
      }
      await brokers[broker].quiet();
    });
    return { ...summary(brokers[broker].latencies), ...cpu };
  },

  /** Send a list of items and get it back, repeatedly: seconds of each. The results are compared. */
  async echo({ broker, bytes, times, pid }) {
    const items = itemsText(bytes);
    const taken = [];
    const cpu = await watched(pid, async () => {
      for (let i = 0; i < times; i++) {
        const { seconds, result, error } = await within(60, 'an echo', new Promise((ended) => {
          brokers[broker].request({ settings: `{"items":${items}}`, ended });
        }));
        if (error || JSON.stringify(result) !== items) throw new Error(error || 'the echo is not what was sent');
        taken.push(seconds);
      }
    });
    return { bytes: items.length, seconds: taken, ...cpu };
  },

  /** Starts tasks and comes back as soon as all their settings are sent. */
  async begin({ broker, settings, tasks }) {
    const text = JSON.stringify(settings);
    await within(10, 'settings sent', Promise.all(Array.from({ length: tasks }, () => new Promise((begun) => {
      brokers[broker].request({ settings: text, begun });
    }))));
  },

  /** Has a big answer made, and once it begins to arrive reads no more, and perhaps stops in the middle of a frame. */
  async stall({ broker, settings, in_frame: inFrame }) {
    const [connection] = brokers[broker].connections;
    const arriving = new Promise((resolve) => {
      brokers[broker].request({ settings: JSON.stringify(settings), begun: () => {
        const before = connection.socket.bytesRead;
        connection.socket.on('data', () => { if (connection.socket.bytesRead - before > 100000) resolve(); });
      } });
    });
    arriving.then(() => { connection.stalled = true; connection.ws.pause(); });
    await within(30, 'the big answer', arriving);
    if (!inFrame) return;
    const header = Buffer.from([0x81, 127, 0, 0, 0, 0, 0, 0x10, 0, 0]); // a text frame of 1 MiB
    const beginning = Buffer.from('{"type":"broker:tasksettings","taskId":"never complete"');
    connection.socket.write(Buffer.concat([header, beginning]));
  },

  /** Each broker goes down, one a bit after the other, and comes back: seconds from then to each registration. */
  async restart({ pause, stagger, runners, limited, seconds }) {
    return Promise.all(brokers.map(async (broker, i) => {
      await sleep(i * stagger);
      broker.down();
      await sleep(pause);
      broker.limited = limited;
      await broker.listen();
      await broker.registered(runners, seconds);
      return broker.registrations;
    }));
  },

  /** Return the outcomes of the tasks of those brokers, after a wait for the tasks that are still running. */
  async accounts({ of, wait }) {
    const chosen = of.map((index) => brokers[index]);
    if (wait) await Promise.all(chosen.map((broker) => broker.quiet()));
    return chosen.map((broker) => ({ ...broker.accounts, unanswered: broker.tasks.size }));
  },
};

require('readline').createInterface({ input: process.stdin }).on('line', async (line) => {
  let reply;
  try {
    const command = JSON.parse(line);
    reply = { answer: (await commands[command.do](command)) ?? null };
  } catch (error) {
    reply = { error: error.message };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}).on('close', () => process.exit(0));
