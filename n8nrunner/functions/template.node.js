'use strict';

// Written by n8nrunner from the Python functions of the runner "__RUNNER__". Do not edit: write it again, with
// `n8nrunner node`, when the functions change.

const { NodeConnectionTypes, NodeOperationError, sleep } = require('n8n-workflow');

/** The functions as they were when this was written: what each takes, and the task type its calls are sent to. */
const FUNCTIONS = __FUNCTIONS__;

const VERSION = 1;

/** Milliseconds between two tries while a replica of the runner may be of another age than this node. */
const PAUSES = [250, 500, 1000];

/** Bytes of files that go with a task or its result. Beyond that, smaller files are fetched and stored by calls. */
const INLINE_BYTES = 128 * 1024 * 1024;

/** Bytes of a file that may go by a call: n8n makes a list of numbers of them, and can die of a large one. */
const CALL_BYTES = 16 * 1024 * 1024;

/** Bytes of files from which on the next items are a task of their own: n8n holds those of a task in memory. */
const BATCH_BYTES = 16 * 1024 * 1024;

const WRITE_AGAIN = 'Write this node again with "n8nrunner node", and restart n8n.';

/** The arguments of one item; throws if one cannot be had. */
function argumentsOf(context, definition, itemIndex) {
	const given = {};
	const additional = definition.additional.length
		? context.getNodeParameter('additionalFields', itemIndex, {})
		: {};
	for (const parameter of definition.parameters) {
		if (definition.additional.includes(parameter.name)) {
			if (!(parameter.name in additional)) continue;
			given[parameter.name] = additional[parameter.name];
		} else {
			given[parameter.name] = context.getNodeParameter(parameter.field, itemIndex);
		}
		if (parameter.kind === 'file') {
			const file = fileOf(context, definition, parameter, given[parameter.name], itemIndex);
			if (file === undefined) delete given[parameter.name];
			else given[parameter.name] = file;
		}
		// An expression for what an item lacks.
		if (given[parameter.name] === undefined) delete given[parameter.name];
	}
	return given;
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
			binary[name] = await context.helpers.prepareBinaryData(bytes, fileName, mimeType);
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

/** As n8n's own, which throws what it has to say itself, such as that nobody took the task. */
async function startJob(context, taskType, settings, itemIndex) {
	try {
		return await context.startJob(taskType, settings, itemIndex);
	} catch (error) {
		return { ok: false, error };
	}
}

/** Runs the calls of some items as one task. */
async function run(context, operation, calls) {
	const definition = FUNCTIONS[operation];
	const settings = {
		version: VERSION,
		function: operation,
		signature: definition.signature,
		calls: await withFiles(context, definition, calls),
		continueOnFail: context.continueOnFail(),
		inlineFiles: INLINE_BYTES,
		nodeName: context.getNode().name,
	};
	for (let tries = 0; ; tries++) {
		const begun = Date.now();
		const outcome = await startJob(context, definition.taskType, settings, calls[0].item);
		if (!outcome.ok) throw failureOf(context, outcome.error, calls[0].item, Date.now() - begun);
		const answer = outcome.result || {};
		if (!answer.error) {
			await storeFiles(context, answer.items);
			return answer;
		}
		// While replicas are replaced, the next one may be the right one.
		const mayPass = answer.error.code === 'unknown_function' || answer.error.code === 'changed';
		if (!mayPass || tries >= PAUSES.length) throw misfitOf(context, operation, answer.error);
		await sleep(PAUSES[tries]);
	}
}

/** The task did not come to an end. */
function failureOf(context, reported, itemIndex, milliseconds) {
	const { message = 'The task failed', description, stack } = reported || {};
	if (message.startsWith('Task request timed out')) {
		return new NodeOperationError(context.getNode(), 'No runner "__RUNNER__" took the call', {
			itemIndex,
			description:
				`n8n waited ${Math.round(milliseconds / 1000)} seconds. Either the Python program with the runner ` +
				'"__RUNNER__" does not run, or it is connected to another n8n, or all its slots are taken. ' +
				'Start it, with "n8nrunner run MODULE" or with runner.start(), and look at its log.',
		});
	}
	const error = errorWith(context, message, { itemIndex, description: asHtml(description) });
	if (stack) error.stack = stack;
	return error;
}

/** The function is not there, or takes something else: says what differs. */
function misfitOf(context, operation, reported) {
	const definition = FUNCTIONS[operation];
	const node = context.getNode();
	if (reported.code === 'unknown_function') {
		return new NodeOperationError(node, `The runner "__RUNNER__" has no function "${operation}"`, {
			description: `${asHtml(capital(reported.message))}. Restart the Python program if it is older. ${WRITE_AGAIN}`,
		});
	}
	if (reported.code === 'newer_node') {
		return new NodeOperationError(node, 'This node is newer than the runner "__RUNNER__"', {
			description: 'Install a newer n8nrunner in the Python program, and restart it.',
		});
	}
	const differences = differencesOf(definition.parameters, (reported.function || {}).parameters || []);
	return new NodeOperationError(node, `The function "${operation}" has changed since this node was written`, {
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

/** Does `work` with each, so many at a time, and keeps their order. */
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

// Its own name is no concern of JavaScript's: a runner may be called "math" or "promise".
class RunnerNode {
	description = __DESCRIPTION__;

	async execute() {
		const items = this.getInputData();
		const operation = this.getNodeParameter('operation', 0);
		const definition = FUNCTIONS[operation];
		const options = this.getNodeParameter('options', 0, {});
		const goesOn = this.continueOnFail();
		const failed = [];

		const calls = [];
		for (let itemIndex = 0; itemIndex < items.length; itemIndex++) {
			try {
				calls.push({ item: itemIndex, arguments: argumentsOf(this, definition, itemIndex) });
			} catch (error) {
				if (!goesOn) throw new NodeOperationError(this.getNode(), error, { itemIndex });
				failed.push({ item: itemIndex, message: error.message });
			}
		}

		const atLeastOne = (option) => (Number(option) >= 1 ? Math.floor(Number(option)) : undefined);
		const size = atLeastOne(options.batchSize) || definition.batchSize || calls.length || 1;
		const parallel = atLeastOne(options.parallelTasks) || definition.parallelTasks;
		const batches = batchesOf(this, definition, calls, size);
		const answers = await inParallel(batches, parallel, async (batch) => {
			try {
				const answer = await run(this, operation, batch);
				if (!goesOn && answer.errors && answer.errors.length) throw errorOf(this, answer.errors[0]);
				return answer;
			} catch (error) {
				if (!goesOn) throw new NodeOperationError(this.getNode(), error);
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
}

module.exports = { __CLASS__: RunnerNode };
