'use strict';

// Written by n8nrunner from the Python functions of the runner "__RUNNER__". Do not edit: write it again, with
// `n8nrunner node`, when the functions change.

const { NodeConnectionTypes, NodeOperationError, sleep } = require('n8n-workflow');

/** The functions when this was written, by name: what each takes, and the task type of its calls. */
const FUNCTIONS = new Map(__FUNCTIONS__.map((definition) => [definition.name, definition]));

const VERSION = 1;

/** Milliseconds between two tries while a replica of the runner may be of another age than this node. */
const PAUSES = [250, 500, 1000];

/** Bytes of files that go with a task or its result. Beyond that, smaller files are fetched and stored by calls. */
const INLINE_BYTES = 128 * 1024 * 1024;

/** Bytes of a file that may go by a call: n8n makes a list of numbers of them, and can die of a large one. */
const CALL_BYTES = 16 * 1024 * 1024;

/** Bytes of files from which on the next items are a task of their own: n8n holds those of a task in memory. */
const BATCH_BYTES = 16 * 1024 * 1024;

/** n8n removes these keys from what it sends to a runner, at every depth. */
const REMOVED_KEYS = new Set(['__proto__', 'constructor', 'prototype']);

const WRITE_AGAIN = 'Write this node again with "n8nrunner node", and restart n8n.';

/** An object, or an empty one in place of anything else: a saved workflow or an expression may hold any value. */
function objectOf(value) {
	return value !== null && typeof value === 'object' ? value : {};
}

/** The arguments of one item. Throws if one cannot be evaluated. */
function argumentsOf(context, definition, itemIndex) {
	const given = new Map();
	const additional = definition.additional.length
		? objectOf(context.getNodeParameter('additionalFields', itemIndex, {}))
		: {};
	for (const parameter of definition.parameters) {
		let value;
		if (definition.additional.includes(parameter.name)) {
			if (!Object.hasOwn(additional, parameter.field)) continue;
			value = additional[parameter.field];
		} else {
			value = context.getNodeParameter(parameter.field, itemIndex);
		}
		if (parameter.kind === 'file') value = fileOf(context, definition, parameter, value, itemIndex);
		// An expression for a field that the item lacks gives undefined.
		if (value !== undefined) given.set(parameter.name, value);
	}
	// Not by assignment, because a parameter may be called "__proto__".
	return Object.fromEntries(given);
}

/** Whether n8n would remove a key of this value. Values with a `toJSON` are sent as that returns them. */
function losesKeys(value, seen = new WeakSet()) {
	if (value === null || typeof value !== 'object' || typeof value.toJSON === 'function' || seen.has(value)) return false;
	seen.add(value);
	return Object.keys(value).some((key) => REMOVED_KEYS.has(key) || losesKeys(value[key], seen));
}

/** A call as it is sent: its arguments as text if n8n would remove a part of them. */
function asSent(call) {
	return losesKeys(call.arguments) ? { ...call, arguments: JSON.stringify(call.arguments) } : call;
}

/** An error with exactly this message: n8n has words of its own for some, such as those with ECONNREFUSED in them. */
function errorWith(context, message, options) {
	const error = new NodeOperationError(context.getNode(), message, options);
	error.message = message;
	return error;
}

/** What stands for a file; `withFiles` puts its bytes beside it. */
function fileOf(context, definition, parameter, property, itemIndex) {
	const binary = context.getInputData()[itemIndex].binary || {};
	if (!parameter.required && !property) return undefined;
	if (!Object.hasOwn(binary, property)) {
		const named = typeof property === 'string' ? `no file "${property}"` : 'no such file';
		const there = Object.keys(binary).join(', ') || 'none';
		const expected = `"${parameter.title}" of ${definition.title} is the name of one of the item's files`;
		throw errorWith(context, `The item has ${named}`, { itemIndex, description: asHtml(`${expected}; it has: ${there}.`) });
	}
	const data = binary[property];
	return { $file: property, fileName: data.fileName, mimeType: data.mimeType };
}

const fileNames = (definition) => definition.parameters.filter(({ kind }) => kind === 'file').map(({ name }) => name);

/** Bytes of a file that a call names, where n8n knows how many: older ones do not. */
function sizeOf(context, call, name) {
	const file = call.arguments[name];
	return file ? context.getInputData()[call.item].binary[file.$file].bytes || 0 : 0;
}

/** The calls with the bytes of their files, as far as they fit. What cannot be had is left to the function. */
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

/** Stores the files that came with an answer. */
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

/** Cuts calls into batches of at most `size`; of fewer where they have large files, and need not stay together. */
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

/** A task that failed as a whole, with the error that n8n shows. */
class TaskFailure {
	/** `ofItems`: whether its own items are the cause, so that other items may succeed. */
	constructor(error, ofItems = false) {
		this.error = error;
		this.ofItems = ofItems;
	}
}

/** Whether the execution has been stopped, by its user or by the workflow's time limit. */
const isStopped = (context) => context.getExecutionCancelSignal?.()?.aborted === true;

function throwIfStopped(context) {
	if (isStopped(context)) throw new NodeOperationError(context.getNode(), 'The execution was stopped');
}

/** Sends a task. What n8n throws, such as that no runner accepted the task, is returned as the task's error. */
async function startJob(context, taskType, settings, itemIndex) {
	throwIfStopped(context);
	const signal = context.getExecutionCancelSignal?.();
	let stop;
	const stopped = new Promise((resolve) => {
		stop = () => {
			// n8n sends a task that waits for a runner even after the stop: it is sent without calls then.
			settings.calls = [];
			resolve({ ok: false });
		};
		signal?.addEventListener('abort', stop);
	});
	const job = context.startJob(taskType, settings, itemIndex).catch((error) => ({ ok: false, error }));
	try {
		return await Promise.race([job, stopped]);
	} finally {
		signal?.removeEventListener('abort', stop);
		throwIfStopped(context);
	}
}

/** Runs the calls of some items as one task. Throws a `TaskFailure`, or the error of an item that cannot be sent. */
async function run(context, definition, calls) {
	const settings = {
		version: VERSION,
		function: definition.name,
		signature: definition.signature,
		calls: (await withFiles(context, definition, calls)).map(asSent),
		continueOnFail: context.continueOnFail(),
		inlineFiles: INLINE_BYTES,
		timezone: context.getTimezone?.(),
		nodeName: context.getNode().name,
		executionId: context.getExecutionId?.(),
	};
	for (let tries = 0; ; tries++) {
		settings.lastTry = tries >= PAUSES.length;
		const begun = Date.now();
		const outcome = await startJob(context, definition.taskType, settings, calls[0].item);
		if (!outcome.ok) throw failureOf(context, outcome.error, calls, Date.now() - begun);
		const answer = outcome.result || {};
		if (!answer.error) {
			await storeFiles(context, answer.items);
			return answer;
		}
		// While replicas are replaced, the next one may be the right one.
		const mayPass = answer.error.code === 'unknown_function' || answer.error.code === 'changed';
		if (!mayPass || tries >= PAUSES.length) throw misfitOf(context, definition, answer.error);
		await sleep(PAUSES[tries]);
	}
}

/** n8n's own errors, by their class or the beginning of their message, with texts for a Python program. */
const N8N_ERRORS = [
	{
		name: 'TaskRequestTimeoutError',
		message: 'Task request timed out',
		title: 'No runner "__RUNNER__" took the call',
		describe: ({ seconds }) =>
			`n8n waited ${seconds} seconds. Either the Python program with the runner "__RUNNER__" does not run, or it ` +
			'is connected to another n8n, or all its slots are taken. Start it, with "n8nrunner run MODULE" or with ' +
			'runner.start(), and look at its log.',
	},
	{
		message: 'No task runner connected',
		title: 'No runner "__RUNNER__" took the call',
		describe: () =>
			'No program with the runner "__RUNNER__" is connected to this n8n. Start it, with "n8nrunner run MODULE" or ' +
			'with runner.start(), and look at its log.',
	},
	{
		name: 'TaskRunnerDisconnectedError',
		message: 'Node execution failed',
		title: 'The runner "__RUNNER__" was lost during the call',
		describe: () =>
			'Its connection to n8n ended before it answered. Either the Python program or its machine stopped, or the ' +
			'network failed, or the answer was larger than n8n accepts (N8N_RUNNERS_MAX_PAYLOAD of n8n). The log of the ' +
			'Python program says which. The function may have done its work: check that before you run it again.',
	},
	{
		name: 'TaskRunnerUnreachableError',
		message: /^Runner \(.*\) became unreachable|^Cannot find runner/,
		title: 'The runner "__RUNNER__" was lost before the call',
		describe: () =>
			'Its connection to n8n ended before n8n had sent the call. Look at the log of the Python program, and run the ' +
			'node again.',
	},
	{
		name: 'TaskRunnerFailedHeartbeatError',
		message: 'Task execution aborted because runner became unresponsive',
		title: 'The runner "__RUNNER__" stopped responding during the call',
		describe: () =>
			'It did not answer n8n within the heartbeat interval (N8N_RUNNERS_HEARTBEAT_INTERVAL of n8n). Either the ' +
			'network failed, or the Python program hangs, as in a C extension that keeps the interpreter\'s lock. The log ' +
			'of the Python program says more. The function may have done its work: check that before you run it again.',
	},
	{
		name: 'TaskRunnerExecutionTimeoutError',
		message: 'Task execution timed out',
		isLimit: true,
		describe: ({ calls }) =>
			`The limit is n8n's own (N8N_RUNNERS_TASK_TIMEOUT where n8n was started), for all ${calls.length} items of the ` +
			'task together. Set a smaller "Batch Size" under "Options", or raise the limit for n8n and for the runner.',
	},
];

/** The message of a task that failed because of the size of its items' data or of its answer. */
const TOO_LARGE = /^The result is too large|bytes, and \d+ are allowed/;

/** What became of a task that did not end with an answer. */
function failureOf(context, reported, calls, milliseconds) {
	const node = context.getNode();
	const { message = 'The task failed', description, stack } = reported || {};
	const options = { itemIndex: calls[0].item };
	// What a runner reports is plain data; n8n's own errors are objects, and their descriptions are HTML already.
	const isOwn = reported instanceof Error;
	const known = isOwn && N8N_ERRORS.find(({ name, message: start }) => {
		return name === reported.constructor.name || (start.test ? start.test(message) : message.startsWith(start));
	});
	const ofItems = calls.length === 1 && (message.startsWith('Task execution timed out') || TOO_LARGE.test(message));
	if (known) {
		options.description = known.describe({ calls, seconds: Math.round(milliseconds / 1000) });
		return new TaskFailure(new NodeOperationError(node, known.title || message, options), ofItems);
	}
	const error = errorWith(context, message, { ...options, description: isOwn ? description : asHtml(description) });
	if (stack) error.stack = stack;
	return new TaskFailure(error, ofItems);
}

/** The failure of a task whose function is missing or takes something else: says what differs. */
function misfitOf(context, definition, reported) {
	const operation = definition.name;
	const failed = (message, options) => new TaskFailure(new NodeOperationError(context.getNode(), message, options));
	if (reported.code === 'unknown_function') {
		return failed( `The runner "__RUNNER__" has no function "${operation}"`, {
			description: `${asHtml(capital(reported.message))}. Restart the Python program if it is older. ${WRITE_AGAIN}`,
		});
	}
	if (reported.code === 'newer_node') {
		return failed( 'This node is newer than the runner "__RUNNER__"', {
			description: 'Install a newer n8nrunner in the Python program, and restart it.',
		});
	}
	const differences = differencesOf(definition.parameters, (reported.function || {}).parameters || []);
	return failed( `The function "${operation}" has changed since this node was written`, {
		description: asHtml(`${differences.join('; ') || capital(reported.message)}. ${WRITE_AGAIN}`),
	});
}

function differencesOf(written, now) {
	const differences = [];
	for (const parameter of written) {
		const other = now.find(({ name }) => name === parameter.name);
		if (!other) differences.push(`Parameter "${parameter.name}" is gone`);
		else if (other.type !== parameter.type) {
			differences.push(`Parameter "${parameter.name}" was ${wordsFor(parameter)} and is ${wordsFor(other)}`);
		} else if (other.required && !parameter.required) {
			differences.push(`Parameter "${parameter.name}" is required now`);
		}
	}
	for (const parameter of now) {
		if (!written.some(({ name }) => name === parameter.name)) {
			differences.push(`Parameter "${parameter.name}" is new${parameter.required ? ', and required' : ''}`);
		}
	}
	return differences;
}

function wordsFor({ kind, choices }) {
	return choices ? `one of ${choices.join(', ')}` : `of kind ${kind}`;
}

/** Text that stands as it is where n8n shows HTML: an error's description. */
function asHtml(text) {
	const entities = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };
	return (text || '')
		.replace(/[&<>]/g, (character) => entities[character])
		.replace(/^ +/gm, (spaces) => '&nbsp;'.repeat(spaces.length))
		.replace(/\n/g, '<br/>');
}

function capital(text) {
	return text ? text[0].toUpperCase() + text.slice(1) : '';
}

/** An item that failed, as an error that n8n shows. */
function errorOf(context, reported) {
	const lines = (reported.stack || '').trim();
	const error = errorWith(context, reported.message, {
		itemIndex: reported.item,
		// The marks below a traceback's lines need a font in which all characters are of one width.
		description: reported.description ? asHtml(reported.description) : lines && `<code>${asHtml(lines)}</code>`,
	});
	if (lines) error.stack = lines;
	return error;
}

/** The operation of a saved workflow is none of this node's. */
function goneOperation(context, operation) {
	const there = [...FUNCTIONS.keys()].join(', ');
	return new NodeOperationError(context.getNode(), `This node has no operation "${operation}"`, {
		description: asHtml(
			`Its operations are: ${there}. Choose one of them. If the runner "__RUNNER__" has a function "${operation}": ` +
				WRITE_AGAIN,
		),
	});
}

/** Calls `work` with each entry, at most `limit` at a time, and keeps their order. */
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

/** The node's work, with n8n's context of the execution. */
async function outputOf(context) {
	const items = context.getInputData();
	const operation = context.getNodeParameter('operation', 0);
	const definition = FUNCTIONS.get(operation);
	const options = objectOf(context.getNodeParameter('options', 0, {}));
	const goesOn = context.continueOnFail();
	const failed = [];
	// The failure of a whole task: no further task is sent then, and the items left over get its error.
	let failure;

	const calls = [];
	for (let itemIndex = 0; itemIndex < items.length; itemIndex++) {
		try {
			if (!definition) throw goneOperation(context, operation);
			calls.push({ item: itemIndex, arguments: argumentsOf(context, definition, itemIndex) });
		} catch (error) {
			if (!goesOn) throw new NodeOperationError(context.getNode(), error, { itemIndex });
			failed.push({ item: itemIndex, message: error.message });
		}
	}

	const atLeastOne = (option) => (Number(option) >= 1 ? Math.floor(Number(option)) : undefined);
	const size = atLeastOne(options.batchSize) || definition?.batchSize || calls.length || 1;
	const parallel = atLeastOne(options.parallelTasks) || definition?.parallelTasks || 1;
	const batches = calls.length ? batchesOf(context, definition, calls, size) : [];
	const answers = await inParallel(batches, parallel, async (batch) => {
		try {
			if (failure) throw failure;
			const answer = await run(context, definition, batch);
			if (!goesOn && answer.errors && answer.errors.length) throw errorOf(context, answer.errors[0]);
			return answer;
		} catch (thrown) {
			const error = thrown instanceof TaskFailure ? thrown.error : thrown;
			if (!goesOn || isStopped(context)) throw new NodeOperationError(context.getNode(), error);
			if (thrown instanceof TaskFailure && !thrown.ofItems) failure ??= thrown;
			return { items: [], errors: batch.map(({ item }) => ({ item, message: error.message })) };
		}
	});

	const output = answers.flatMap((answer) => answer.items || []);
	const errors = failed.concat(answers.flatMap((answer) => answer.errors || []));
	if (!errors.length) return [output];
	const failures = errors.map(({ item, message }) => ({ json: { error: message }, pairedItem: { item } }));
	const place = ({ pairedItem }) => {
		const source = [].concat(pairedItem ?? 0)[0] ?? 0;
		return typeof source === 'number' ? source : source.item ?? 0;
	};
	return [output.concat(failures).sort((one, other) => place(one) - place(other))];
}

// Not the runner's name, which may be one of JavaScript's own, such as "math" or "promise".
class RunnerNode {
	description = __DESCRIPTION__;

	async execute() {
		return await outputOf(this);
	}
}

module.exports = { __CLASS__: RunnerNode };
