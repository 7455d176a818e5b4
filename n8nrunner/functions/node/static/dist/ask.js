'use strict';

// Asks runners who they are and what functions they have. docs/protocol.md, "Functions", has the questions, which are
// task types that a runner answers at once, and the answers.
//
// Only `start` uses `startRunnerTask`, which n8n does not document: while a node is edited, n8n gives it no `startJob`.

const { sleep } = require('n8n-workflow');

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

/** The last answer of each runner, by its name: { description, at }. One for all workflows of this n8n process. */
const answers = new Map();

/** n8n gave the node neither `startJob` nor `startRunnerTask`: this n8n cannot ask while a node is edited. */
class CannotAsk extends Error {}

/** No runner answered in time, or n8n has none. */
class NoAnswer extends Error {}

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

/** Return the answer to a question. Throws `CannotAsk`, or `NoAnswer` after `limit` milliseconds. */
async function ask(context, taskType, limit) {
	const task = start(context, taskType).catch((error) => ({ ok: false, error }));
	const outcome = await (limit === undefined ? task : Promise.race([task, sleep(limit)]));
	if (!outcome) throw new NoAnswer('No runner answered');
	if (!outcome.ok) throw Object.assign(new NoAnswer(outcome.error?.message), { cause: outcome.error });
	return outcome.result;
}

function keep(description) {
	answers.set(description.runner, { description, at: Date.now() });
	return description;
}

/**
 * Return the description of a runner while a node is edited, always a new one. It is kept for executions.
 *
 * @throws {CannotAsk} this n8n cannot ask while a node is edited.
 * @throws {NoAnswer} no runner of this name answered in time.
 */
async function describe(context, runner) {
	return keep(await ask(context, `${QUESTION}:${runner}`, EDITING_LIMIT));
}

/**
 * Return the description of a runner for an execution: the last one, unless it is too old or older than `after`.
 *
 * @param after milliseconds since the epoch.
 * @throws {NoAnswer} n8n has given up; `cause` is its error.
 */
async function describeForExecution(context, runner, after = 0) {
	const last = answers.get(runner);
	if (last && last.at > Math.max(after, Date.now() - KEPT)) return last.description;
	return keep(await ask(context, `${QUESTION}:${runner}`));
}

/**
 * Return the runners that are connected: [{ runner, process, state, functionCount }], sorted by name.
 *
 * n8n gives each question to any of them, so it is asked until three answers in a row are from known runners.
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
			answer = await ask(context, QUESTION, deadline - Date.now());
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
