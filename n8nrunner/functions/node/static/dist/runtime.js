'use strict';

// The code of every node that calls functions. It runs in n8n, sends the items to the runner as tasks, and turns the
// answers into n8n's output. docs/protocol.md, "Functions", has the form of tasks and answers.
//
// The definition of a function is data that `description.py` and `describe.py` make:
// { name, title, taskType, signature, batchSize, parallelTasks,
//   parameters: [{ name, title, field, kind, type, required, choices }] }
// Here it also has `runner`, the name of its runner.
//
// A source says where a node has definitions and arguments from:
//   definitionOf(context, itemIndex)          the definition of the function that an item calls; may be a promise
//   argumentsOf(context, definition, itemIndex)  the JSON arguments of the call, by parameter
//   refresh(context, definition)              the definition after the runner refused a call of it; may be a promise
//   differencesOf(context, definition, refusal)  sentences about how the node and the refusing runner differ
//   changedTitle(name), changed, unknown      the error's title for a changed function; what to do about one, and about
//                                             an unknown one
// `writtenSource` is the one of a node that has its definitions in its code.

const { NodeOperationError, sleep } = require('n8n-workflow');

/** The version of tasks and answers. */
const VERSION = 1;

/** Milliseconds between two tries while another replica of the runner may have the function as this node knows it. */
const RETRY_DELAYS = [250, 500, 1000];

/** Bytes of files that travel with a task or its answer. Beyond that, smaller files are fetched and stored by calls. */
const INLINE_BYTES = 128 * 1024 * 1024;

/** Bytes of the largest file that travels by a call: n8n makes a list of numbers of it, and may run out of memory. */
const CALL_BYTES = 16 * 1024 * 1024;

/** Bytes of files after which the next items become a task of their own: n8n holds those of a task in memory. */
const BATCH_BYTES = 16 * 1024 * 1024;

/** n8n removes these keys from what it sends to a runner, at every depth. */
const REMOVED_KEYS = new Set(['__proto__', 'constructor', 'prototype']);

// --- values and text ------------------------------------------------------------------------------------------

/** Return the value if it is an object, else an empty object: a saved workflow or an expression may hold any value. */
function objectOf(value) {
	return value !== null && typeof value === 'object' ? value : {};
}

/** Return a positive integer option; undefined for any other value. */
function countOf(value) {
	return Number(value) >= 1 ? Math.floor(Number(value)) : undefined;
}

/** Return the time limit of a task, in seconds, as the options have it: the runner refuses one that is not valid. */
function timeLimitOf({ timeLimit }) {
	if (timeLimit === undefined || timeLimit === null || timeLimit === '') return undefined;
	return Number.isFinite(Number(timeLimit)) ? Number(timeLimit) : String(timeLimit);
}

/** Escape text of the runner where n8n shows HTML. */
const escapeHtml = (text) => text.replace(/[&<>]/g, (character) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[character]);

/** Escape text with lines where n8n shows HTML, as in an error's description. */
function asHtml(text) {
	return escapeHtml(text || '')
		.replace(/^ +/gm, (spaces) => '&nbsp;'.repeat(spaces.length))
		.replace(/\n/g, '<br/>');
}

function capitalize(text) {
	return text ? text[0].toUpperCase() + text.slice(1) : '';
}

// --- arguments ------------------------------------------------------------------------------------------------

/**
 * Return the arguments of one call, by parameter. Throws if a file is missing.
 *
 * @param values pairs of a parameter and the value of its field; undefined if it is not to be sent.
 */
function argumentsFrom(context, definition, values, itemIndex) {
	const given = [];
	for (const [parameter, value] of values) {
		const sent = parameter.kind === 'file' ? fileOf(context, definition, parameter, value, itemIndex) : value;
		// An expression for a field that the item lacks gives undefined.
		if (sent !== undefined) given.push([parameter.name, sent]);
	}
	// Not by assignment, because a parameter may be called "__proto__".
	return Object.fromEntries(given);
}

/** Return whether n8n would remove a key of this value. A value with a `toJSON` is sent as that returns it. */
function losesKeys(value, seen = new WeakSet()) {
	if (value === null || typeof value !== 'object' || typeof value.toJSON === 'function' || seen.has(value)) return false;
	seen.add(value);
	return Object.keys(value).some((key) => REMOVED_KEYS.has(key) || losesKeys(value[key], seen));
}

/** Return a call as it is sent: its arguments are a JSON string if n8n would remove some of their keys. */
function asSent(call) {
	return losesKeys(call.arguments) ? { ...call, arguments: JSON.stringify(call.arguments) } : call;
}

// --- files ----------------------------------------------------------------------------------------------------

/** Return the argument for a file. `withFiles` adds its bytes. */
function fileOf(context, definition, parameter, property, itemIndex) {
	const binary = context.getInputData()[itemIndex].binary || {};
	if (!parameter.required && !property) return undefined;
	if (!Object.hasOwn(binary, property)) {
		const named = typeof property === 'string' ? `no file "${property}"` : 'no such file';
		const names = Object.keys(binary).join(', ') || 'none';
		const expected = `"${parameter.title}" of ${definition.title} is the name of one of the item's files`;
		throw errorWith(context, `The item has ${named}`, { itemIndex, description: asHtml(`${expected}; it has: ${names}.`) });
	}
	const data = binary[property];
	return { $file: property, fileName: data.fileName, mimeType: data.mimeType };
}

const fileNames = (definition) => definition.parameters.filter(({ kind }) => kind === 'file').map(({ name }) => name);

/** Return the bytes of a file that a call names; 0 in an older n8n, which does not know. */
function sizeOf(context, call, name) {
	const file = call.arguments[name];
	return file ? context.getInputData()[call.item].binary[file.$file].bytes || 0 : 0;
}

/** Return the calls with the bytes of their files, as far as they fit. The function fetches the other files. */
async function withFiles(context, definition, calls) {
	const names = fileNames(definition);
	let room = INLINE_BYTES;
	const fits = (bytes, itemIndex) => {
		if (bytes > room && bytes > CALL_BYTES) {
			throw new NodeOperationError(context.getNode(), 'The files are too large for one task', {
				itemIndex,
				description:
					`${definition.title} can take ${INLINE_BYTES / 1024 / 1024} MiB of files at once. If it gets several items ` +
					'at once, set a smaller "Batch Size" under "Options"; else give it smaller files.',
			});
		}
		return bytes <= room;
	};
	const filled = [];
	for (const call of calls) {
		const given = { ...call.arguments };
		for (const name of names) {
			if (!given[name] || !fits(sizeOf(context, call, name), call.item)) continue;
			const content = await context.helpers.getBinaryDataBuffer(call.item, given[name].$file).catch(() => undefined);
			if (!content || !fits(content.length, call.item)) continue;
			room -= content.length;
			given[name] = { ...given[name], content: content.toString('base64') };
		}
		filled.push({ ...call, arguments: given });
	}
	return filled;
}

/** Store the files of an answer's items. */
async function storeFiles(context, items) {
	for (const { binary } of items || []) {
		for (const [name, file] of Object.entries(binary || {})) {
			const { content, fileName, mimeType } = file || {};
			if (content === undefined) continue;
			const bytes = Buffer.from(content, 'base64');
			const stored = await context.helpers.prepareBinaryData(bytes, fileName, mimeType);
			// n8n takes a name with a slash for a path, and keeps its last part only.
			if (fileName !== undefined) Object.assign(stored, { fileName, directory: undefined });
			binary[name] = stored;
		}
	}
}

// --- errors ---------------------------------------------------------------------------------------------------

/** The failure of a whole task, with the error that n8n shows. */
class TaskFailure {
	/** `ofItems`: whether the task's own items are the cause, so that other items may succeed. */
	constructor(error, ofItems = false) {
		this.error = error;
		this.ofItems = ofItems;
	}
}

/** Return an error with exactly this message: n8n replaces some messages, such as those that contain ECONNREFUSED. */
function errorWith(context, message, options) {
	const error = new NodeOperationError(context.getNode(), message, options);
	error.message = message;
	return error;
}

/**
 * n8n's own errors, by their class or the start of their message, with texts about a Python program.
 *
 * `isUnserved`: n8n had no runner for the task.
 */
const N8N_ERRORS = [
	{
		name: 'TaskRequestTimeoutError',
		message: 'Task request timed out',
		isUnserved: true,
		title: ({ runner }) => `No runner "${runner}" took the call`,
		describe: ({ runner, seconds }) =>
			`n8n waited ${seconds} seconds. Either the Python program with the runner "${runner}" does not run, or it ` +
			'is connected to another n8n, or all its slots are taken. Start it, with "n8nrunner run MODULE" or with ' +
			'runner.start(), and look at its log.',
	},
	{
		message: 'No task runner connected',
		isUnserved: true,
		title: ({ runner }) => `No runner "${runner}" took the call`,
		describe: ({ runner }) =>
			`No program with the runner "${runner}" is connected to this n8n. Start it, with "n8nrunner run MODULE" or ` +
			'with runner.start(), and look at its log.',
	},
	{
		name: 'TaskRunnerDisconnectedError',
		message: 'Node execution failed',
		title: ({ runner }) => `The runner "${runner}" was lost during the call`,
		describe: () =>
			'Its connection to n8n ended before it answered. Either the Python program or its machine stopped, or the ' +
			'network failed, or the answer was larger than n8n accepts (N8N_RUNNERS_MAX_PAYLOAD of n8n). The log of the ' +
			'Python program says which. The function may have done its work: check that before you run it again.',
	},
	{
		name: 'TaskRunnerUnreachableError',
		message: /^Runner \(.*\) became unreachable|^Cannot find runner/,
		title: ({ runner }) => `The runner "${runner}" was lost before the call`,
		describe: () =>
			'Its connection to n8n ended before n8n had sent the call. Look at the log of the Python program, and run the ' +
			'node again.',
	},
	{
		name: 'TaskRunnerFailedHeartbeatError',
		message: 'Task execution aborted because runner became unresponsive',
		title: ({ runner }) => `The runner "${runner}" stopped responding during the call`,
		describe: () =>
			'It did not answer n8n within the heartbeat interval (N8N_RUNNERS_HEARTBEAT_INTERVAL of n8n). Either the ' +
			"network failed, or the Python program hangs, as in a C extension that keeps the interpreter's lock. The log " +
			'of the Python program says more. The function may have done its work: check that before you run it again.',
	},
	{
		name: 'TaskRunnerExecutionTimeoutError',
		message: 'Task execution timed out',
		title: ({ message }) => message,
		describe: ({ calls }) =>
			`The limit is n8n's own (N8N_RUNNERS_TASK_TIMEOUT where n8n was started), for all ${calls.length} items of the ` +
			"task together. In n8n's default mode, the function goes on until the limit of the runner: see what it has done " +
			'before you run it again. Set a smaller "Batch Size" under "Options", or raise the limit for n8n and for the runner.',
	},
];

/** Return the entry of `N8N_ERRORS` for an error; undefined for another one. A runner's error is plain data. */
function knownError(error) {
	if (!(error instanceof Error)) return undefined;
	return N8N_ERRORS.find(({ name, message: start }) => {
		return name === error.constructor.name || (start.test ? start.test(error.message) : error.message.startsWith(start));
	});
}

/** The messages of tasks that failed because of the size of their items' data or of their answer. */
const TOO_LARGE = /^The (task's input|result) is too large/;

/** Return the failure of a task that ended without an answer. */
function failureOf(context, definition, reported, calls, milliseconds) {
	const node = context.getNode();
	const { message = 'The task failed', description, stack } = reported || {};
	const options = { itemIndex: calls[0].item };
	// A runner's error is plain data; n8n's own errors are objects, and their descriptions are HTML already.
	const isN8n = reported instanceof Error;
	const known = knownError(reported);
	const ofItems = calls.length === 1 && (message.startsWith('Task execution timed out') || TOO_LARGE.test(message));
	if (known) {
		const details = { runner: definition.runner, calls, message, seconds: Math.round(milliseconds / 1000) };
		options.description = known.describe({ ...details, runner: asHtml(definition.runner) });
		return new TaskFailure(new NodeOperationError(node, known.title(details), options), ofItems);
	}
	const error = errorWith(context, message, { ...options, description: isN8n ? description : asHtml(description) });
	if (stack) error.stack = stack;
	return new TaskFailure(error, ofItems);
}

/** Return the failure of a question to a runner, from its `NoAnswer`. No call was sent. */
function unansweredOf(context, runner, { isLost }, milliseconds) {
	const title = isLost ? `The runner "${runner}" was lost before the call` : `No runner "${runner}" took the call`;
	const description = isLost
		? 'Its connection to n8n ended before it said what functions it has. Look at the log of the Python program, and run ' +
			'the node again.'
		: `The node waited ${Math.round(milliseconds / 1000)} seconds. Either the Python program with the runner ` +
			`"${runner}" does not run, or it is connected to another n8n. Start it, with "n8nrunner run MODULE" or with ` +
			'runner.start(), and look at its log.';
	return new TaskFailure(errorWith(context, title, { itemIndex: 0, description: asHtml(description) }));
}

/** Return the failure of a task that the runner refused: its function is missing, or takes other arguments. */
function refusalOf(context, source, definition, reported) {
	const { name, runner } = definition;
	const failed = (message, options) => new TaskFailure(new NodeOperationError(context.getNode(), message, options));
	if (reported.code === 'unknown_function') {
		return failed(`The runner "${runner}" has no function "${name}"`, {
			description: asHtml(`${capitalize(reported.message)}. ${source.unknown}`),
		});
	}
	if (reported.code === 'newer_node') {
		return failed(`This node is newer than the runner "${runner}"`, {
			description: 'Install a newer n8nrunner in the Python program, and restart it.',
		});
	}
	const differences = source.differencesOf(context, definition, (reported.function || {}).parameters || []);
	return failed(source.changedTitle(name), {
		description: asHtml(`${differences.join('; ') || capitalize(reported.message)}. ${source.changed}`),
	});
}

/**
 * Return sentences about how two versions of a function's parameters differ.
 *
 * @param before, now lists of { id, name, required, type, words }. The `words` describe the type in a sentence.
 */
function differencesOf(before, now) {
	const differences = [];
	for (const { id, name, required, type, words } of before) {
		const other = now.find((each) => each.id === id);
		if (!other) differences.push(`Parameter "${name}" is gone`);
		else if (other.type !== type) differences.push(`Parameter "${name}" was ${words} and is ${other.words}`);
		else if (other.required && !required) differences.push(`Parameter "${name}" is required now`);
	}
	for (const { id, name, required } of now) {
		if (before.some((each) => each.id === id)) continue;
		differences.push(`Parameter "${name}" is new${required ? ', and required' : ''}`);
	}
	return differences;
}

/** Return the error of an item that failed. */
function errorOf(context, reported) {
	const lines = (reported.stack || '').trim();
	const error = errorWith(context, reported.message, {
		itemIndex: reported.item,
		// The marks below a traceback's lines need a font in which all characters have the same width.
		description: reported.description ? asHtml(reported.description) : lines && `<code>${asHtml(lines)}</code>`,
	});
	if (lines) error.stack = lines;
	return error;
}

// --- tasks ----------------------------------------------------------------------------------------------------

/** Cut calls into batches of at most `size`; into smaller ones if they have large files and may be separated. */
function batchesOf(context, definition, calls, size) {
	const names = definition.batchSize ? fileNames(definition) : [];
	const batches = [];
	let bytes = 0;
	for (const call of calls) {
		const own = names.reduce((sum, name) => sum + sizeOf(context, call, name), 0);
		const last = batches[batches.length - 1];
		if (!last || last.length >= size || (own > 0 && bytes + own > BATCH_BYTES)) {
			batches.push([call]);
			bytes = own;
		} else {
			last.push(call);
			bytes += own;
		}
	}
	return batches;
}

/** Return whether the execution has been stopped, by its user or by the workflow's time limit. */
const isStopped = (context) => context.getExecutionCancelSignal?.()?.aborted === true;

function throwIfStopped(context) {
	if (isStopped(context)) throw new NodeOperationError(context.getNode(), 'The execution was stopped');
}

/** Wait for a promise, but no longer than the execution: throws when that is stopped. */
async function untilStopped(context, promise, atStop) {
	const signal = context.getExecutionCancelSignal?.();
	let stop;
	const stopped = new Promise((resolve) => {
		stop = () => {
			atStop?.();
			resolve();
		};
		signal?.addEventListener('abort', stop);
	});
	try {
		return await Promise.race([promise, stopped]);
	} finally {
		signal?.removeEventListener('abort', stop);
		throwIfStopped(context);
	}
}

/** Send a task. An error that n8n throws, as when no runner accepts the task, is returned as the task's error. */
async function startTask(context, taskType, settings, itemIndex) {
	throwIfStopped(context);
	const task = context.startJob(taskType, settings, itemIndex).catch((error) => ({ ok: false, error }));
	return await untilStopped(context, task, () => {
		// n8n sends a task that waits for a runner even after the stop: it is then sent without calls.
		settings.calls = [];
	});
}

/** Run the calls of some items as one task. Throws a `TaskFailure`, or the error of an item that cannot be sent. */
async function runTask(context, source, definition, calls, options) {
	const settings = {
		version: VERSION,
		calls: (await withFiles(context, definition, calls)).map(asSent),
		continueOnFail: context.continueOnFail(),
		timeLimit: timeLimitOf(options),
		inlineFiles: INLINE_BYTES,
		timezone: context.getTimezone?.(),
		nodeName: context.getNode().name,
		executionId: context.getExecutionId?.(),
	};
	for (let tries = 0; ; tries++) {
		const { name, signature, taskType } = definition;
		Object.assign(settings, { function: name, signature, lastTry: tries >= RETRY_DELAYS.length });
		const begun = Date.now();
		const outcome = await startTask(context, taskType, settings, calls[0].item);
		if (!outcome.ok) throw failureOf(context, definition, outcome.error, calls, Date.now() - begun);
		const answer = outcome.result || {};
		if (!answer.error) {
			await storeFiles(context, answer.items);
			return answer;
		}
		// While the replicas of a runner are replaced, the next one to answer may have the right function.
		const mayPass = answer.error.code === 'unknown_function' || answer.error.code === 'changed';
		if (!mayPass || settings.lastTry) throw refusalOf(context, source, definition, answer.error);
		await sleep(RETRY_DELAYS[tries]);
		definition = await source.refresh(context, definition);
	}
}

/** Call `work` with each entry, at most `limit` at a time. Return the results in the order of the entries. */
async function inParallel(entries, limit, work) {
	const results = new Array(entries.length);
	let next = 0;
	let failed = false;
	const worker = async () => {
		while (next < entries.length && !failed) {
			const index = next++;
			let succeeded = false;
			try {
				results[index] = await work(entries[index]);
				succeeded = true;
			} finally {
				failed = failed || !succeeded;
			}
		}
	};
	await Promise.all(Array.from({ length: Math.min(limit, entries.length) }, worker));
	return results;
}

// --- the node -------------------------------------------------------------------------------------------------

/** Return the tasks of some calls: [{ definition, calls }]. The calls of one task call one function. */
function tasksOf(context, calls, batchSize) {
	const byDefinition = new Map();
	for (const call of calls) {
		if (!byDefinition.has(call.definition)) byDefinition.set(call.definition, []);
		byDefinition.get(call.definition).push({ item: call.item, arguments: call.arguments });
	}
	return [...byDefinition].flatMap(([definition, its]) =>
		batchesOf(context, definition, its, batchSize || definition.batchSize || its.length).map((batch) => ({
			definition,
			calls: batch,
		})),
	);
}

/**
 * Run a node: call a function for each item.
 *
 * @param context n8n's context of the execution, the `this` of a node's `execute`.
 * @param source where the definitions and the arguments are from.
 * @returns the items of the node's one output.
 */
async function run(context, source) {
	const items = context.getInputData();
	const options = objectOf(context.getNodeParameter('options', 0, {}));
	const continueOnFail = context.continueOnFail();
	const failed = [];
	// The failure of a whole task: no other task is sent after it, and the remaining items get its error.
	let failure;

	const calls = [];
	for (let itemIndex = 0; itemIndex < items.length; itemIndex++) {
		try {
			if (failure) throw failure;
			let definition = source.definitionOf(context, itemIndex);
			// An `await` for each of ten thousand items would be slow.
			if (definition instanceof Promise) definition = await definition;
			calls.push({ definition, item: itemIndex, arguments: source.argumentsOf(context, definition, itemIndex) });
		} catch (thrown) {
			const error = thrown instanceof TaskFailure ? thrown.error : thrown;
			if (!continueOnFail || isStopped(context)) throw new NodeOperationError(context.getNode(), error, { itemIndex });
			if (thrown instanceof TaskFailure) failure ??= thrown;
			failed.push({ item: itemIndex, message: error.message });
		}
	}

	const tasks = tasksOf(context, calls, countOf(options.batchSize));
	const fewest = (least, { definition }) => Math.min(least, definition.parallelTasks);
	const parallel = countOf(options.parallelTasks) || tasks.reduce(fewest, Infinity);
	const answers = await inParallel(tasks, parallel, async ({ definition, calls: batch }) => {
		try {
			if (failure) throw failure;
			const answer = await runTask(context, source, definition, batch, options);
			if (!continueOnFail && answer.errors && answer.errors.length) throw errorOf(context, answer.errors[0]);
			return answer;
		} catch (thrown) {
			const error = thrown instanceof TaskFailure ? thrown.error : thrown;
			if (!continueOnFail || isStopped(context)) throw new NodeOperationError(context.getNode(), error);
			if (thrown instanceof TaskFailure && !thrown.ofItems) failure ??= thrown;
			return { items: [], errors: batch.map(({ item }) => ({ item, message: error.message })) };
		}
	});

	const output = answers.flatMap((answer) => answer.items || []);
	const errors = failed.concat(answers.flatMap((answer) => answer.errors || []));
	// The results of one function are in the order of the items already.
	if (!errors.length && tasks.every(({ definition }) => definition === tasks[0].definition)) return [output];
	const failures = errors.map(({ item, message }) => ({ json: { error: message }, pairedItem: { item } }));
	const place = ({ pairedItem }) => {
		const from = [].concat(pairedItem ?? 0)[0] ?? 0;
		return typeof from === 'number' ? from : from.item ?? 0;
	};
	return [output.concat(failures).sort((one, other) => place(one) - place(other))];
}

// --- nodes that have their definitions in their code ------------------------------------------------------------

const WRITE_AGAIN = 'Write this node again with "n8nrunner node", and restart n8n.';

/** Return a parameter as `differencesOf` takes it. */
function inWords({ name, required, type, kind, choices }) {
	return { id: name, name, required, type, words: choices ? `one of ${choices.join(', ')}` : `of kind ${kind}` };
}

/** Return the source of a written node: the name of its `runner`, and the definitions of its `functions`. */
function writtenSource(context, { runner, functions }) {
	const operation = context.getNodeParameter('operation', 0);
	const written = functions.find(({ name }) => name === operation);
	const definition = written && { ...written, runner };
	return {
		changedTitle: (name) => `The function "${name}" has changed since this node was written`,
		changed: WRITE_AGAIN,
		unknown: `Restart the Python program if it is older. ${WRITE_AGAIN}`,
		definitionOf() {
			if (definition) return definition;
			const names = functions.map(({ name }) => name).join(', ');
			throw new NodeOperationError(context.getNode(), `This node has no operation "${operation}"`, {
				description: asHtml(
					`Its operations are: ${names}. Choose one of them. If the runner "${runner}" has a function ` +
						`"${operation}": ${WRITE_AGAIN}`,
				),
			});
		},
		argumentsOf(_context, { additional, parameters }, itemIndex) {
			const added = additional.length ? objectOf(context.getNodeParameter('additionalFields', itemIndex, {})) : {};
			const values = parameters.map((parameter) => {
				if (!additional.includes(parameter.name)) return [parameter, context.getNodeParameter(parameter.field, itemIndex)];
				return [parameter, Object.hasOwn(added, parameter.field) ? added[parameter.field] : undefined];
			});
			return argumentsFrom(context, definition, values, itemIndex);
		},
		refresh: () => definition,
		differencesOf: (_context, { parameters }, current) => differencesOf(parameters.map(inWords), current.map(inWords)),
	};
}

/** Run a written node; `node` is the data that `writtenSource` takes. */
const execute = (context, node) => run(context, writtenSource(context, node));

module.exports = {
	RETRY_DELAYS, TaskFailure, argumentsFrom, asHtml, differencesOf, errorWith, escapeHtml, execute, knownError, objectOf,
	run, runTask, throwIfStopped, unansweredOf, untilStopped,
};
