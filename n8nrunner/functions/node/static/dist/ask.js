'use strict';

// Asks runners who they are and what functions they have. docs/protocol.md, "Functions", has the questions, which are
// task types that a runner answers at once, and the answers.
//
// Only `start` uses `startRunnerTask`, which n8n does not document: while a node is edited, n8n gives it no `startJob`.

const { sleep } = require('n8n-workflow');

const { knownError } = require('./runtime.js');

/** The task type that all runners answer; with ":" and its name, the one that one runner answers. */
const QUESTION = 'n8nrunner:describe';

/** Milliseconds until an answer has to be there while a node is edited. n8n itself would wait for a minute. */
const EDITING_LIMIT = 4500;

/** Milliseconds to collect the names of the runners. */
const LISTING_LIMIT = 3000;

/** Answers in a row from runners that are known already: then all are known, with a high probability. */
const KNOWN_IN_A_ROW = 3;

/** Milliseconds for which an execution relies on a runner's last answer. */
const KEPT = 10_000;

/** Milliseconds between two tries of a question that was lost, as with a runner that stops: it has no effect. */
const REPEATS = [100, 250, 500, 1000];

/** How often a runner that stops is asked again, because its successor may answer. */
const STOPPING_TRIES = 3;

/** Milliseconds for which other executions wait for a question that is under way instead of asking as well. */
const SHARED = 1000;

/** The last answer of each runner, by its name: { description, began }. One for all workflows of this n8n process. */
const answers = new Map();

/** The question of an execution that is under way, by the runner's name: { promise, began }. */
const underWay = new Map();

/** n8n gave the node neither `startJob` nor `startRunnerTask`: this n8n cannot ask while a node is edited. */
class CannotAsk extends Error {}

/** No runner answered in time, or n8n has none. `isLost`: a runner took the question, and was lost before it answered. */
class NoAnswer extends Error {
	constructor(isLost) {
		super('No runner answered');
		this.isLost = isLost;
	}
}

/** Send a task. Returns a promise of its outcome: { ok, result } or { ok, error }. */
function start(context, taskType) {
	if (context.startJob) return context.startJob(taskType, {}, 0);
	const { additionalData, node, workflow } = context;
	if (!additionalData?.startRunnerTask) throw new CannotAsk('This n8n cannot ask a runner while a node is edited');
	// The arguments of n8n's own call in `startJob`, with no items and no run.
	const inputData = { main: [[]] };
	const runData = { resultData: { runData: {} } };
	return additionalData.startRunnerTask(
		additionalData, taskType, {}, context, inputData, node, workflow, runData, 0, 0, node.name, [], {}, 'internal',
	);
}

/** Return the answer to a question. Throws `CannotAsk` or `NoAnswer`. */
async function ask(context, taskType) {
	for (let tries = 0; ; tries++) {
		const outcome = await start(context, taskType).catch((error) => ({ ok: false, error }));
		if (outcome.ok) return outcome.result;
		if (knownError(outcome.error)?.isUnserved) throw new NoAnswer(false);
		if (tries === REPEATS.length) throw new NoAnswer(true);
		await sleep(REPEATS[tries]);
	}
}

/** Wait for a promise. Throws `NoAnswer` after `limit` milliseconds, if there is a limit. */
async function within(limit, promise) {
	if (limit === undefined) return await promise;
	const late = Symbol('late');
	const outcome = await Promise.race([promise, sleep(limit).then(() => late)]);
	if (outcome === late) throw new NoAnswer(false);
	return outcome;
}

/** Return what a runner has. It is kept, unless the runner stops. Throws as `ask`. */
async function askRunner(context, runner) {
	let description;
	for (let tries = 0; tries < STOPPING_TRIES; tries++) {
		const began = Date.now();
		description = await ask(context, `${QUESTION}:${runner}`);
		if (description.state !== 'stopping') {
			answers.set(runner, { description, began });
			break;
		}
	}
	return description;
}

/**
 * Return the description of a runner while a node is edited, always a new one. It is kept for executions.
 *
 * @throws {CannotAsk} this n8n cannot ask while a node is edited.
 * @throws {NoAnswer} no runner of this name answered in time.
 */
const describe = (context, runner) => within(EDITING_LIMIT, askRunner(context, runner));

/**
 * Return the description of a runner for an execution: the last one, unless it is too old or older than `after`.
 *
 * @param after milliseconds since the epoch.
 * @param limit milliseconds to wait for an answer; undefined for n8n's own limit.
 * @throws {NoAnswer} no runner answered in time, or n8n has given up.
 */
async function describeForExecution(context, runner, after = 0, limit = undefined) {
	const since = Math.max(after, Date.now() - KEPT);
	const last = answers.get(runner);
	if (last && last.began > since) return last.description;
	const other = underWay.get(runner);
	if (other && other.began > Math.max(since, Date.now() - SHARED)) {
		try {
			return await within(limit, other.promise);
		} catch (error) {
			// The question of another execution may be lost with that.
			if (error instanceof NoAnswer && !error.isLost) throw error;
		}
	}
	const promise = askRunner(context, runner);
	underWay.set(runner, { promise, began: Date.now() });
	try {
		return await within(limit, promise);
	} finally {
		if (underWay.get(runner)?.promise === promise) underWay.delete(runner);
	}
}

/**
 * Return the runners that are connected: [{ runner, process, state, functionCount }], sorted by name.
 *
 * n8n gives a question to the runner whose offer is the oldest, so it is asked until three answers in a row are from
 * known runners.
 *
 * @throws {CannotAsk} this n8n cannot ask while a node is edited.
 */
async function listRunners(context) {
	const deadline = Date.now() + LISTING_LIMIT;
	const found = new Map();
	let known = 0;
	while (known < KNOWN_IN_A_ROW && Date.now() < deadline) {
		let answer;
		try {
			answer = await within(deadline - Date.now(), ask(context, QUESTION));
		} catch (error) {
			if (error instanceof NoAnswer) break;
			throw error;
		}
		known = found.has(answer.runner) ? known + 1 : 0;
		found.set(answer.runner, answer);
	}
	return [...found.values()].sort((one, other) => one.runner.localeCompare(other.runner));
}

module.exports = { CannotAsk, NoAnswer, describe, describeForExecution, listRunners };
