'use strict';

// A node that sends its input items to a task runner as a task of any type, and outputs the result.
// Copy it into n8n's folder ~/.n8n/custom and restart n8n: it is the node "Runner Job", of type CUSTOM.runnerJob.
//
// Careful: it sends tasks of every type, also "javascript" and "python" of n8n's own runners. Everyone who may
// edit workflows can run code there with it, even where NODES_EXCLUDE removes the Code node. To prevent that, list the
// task types that authors may use here, instead of undefined:
const ALLOWED_TASK_TYPES = undefined; // such as new Set(['enrich', 'price'])

const stopped = () => new Error('The execution was stopped');

// A runner's error is plain data; n8n shows message, description and the rest only of a real Error.
function asError(reported) {
	if (reported instanceof Error) return reported;
	const { message, ...rest } = reported ?? {};
	return Object.assign(new Error(message ?? `The task failed: ${JSON.stringify(reported)}`), rest);
}

// The result of a task is n8n items, plain objects, or any other JSON value.
function asItems(result, itemIndex, each) {
	return (Array.isArray(result) ? result : [result]).map((entry) => {
		const isObject = entry !== null && typeof entry === 'object' && !Array.isArray(entry);
		const item = isObject && 'json' in entry ? entry : { json: isObject ? entry : { value: entry } };
		const pairedItem = { item: itemIndex };
		// In a task of one item, that item has index 0; only the node knows its index in the input.
		return each ? { ...item, pairedItem } : { pairedItem, ...item };
	});
}

// Sends a task, unless the execution has been stopped, and stops waiting for it when the execution is stopped.
async function sendTask(context, taskType, settings, itemIndex) {
	const signal = context.getExecutionCancelSignal?.();
	if (signal?.aborted) throw stopped();
	let stop;
	const stopping = new Promise((resolve, reject) => {
		stop = () => reject(stopped());
	});
	signal?.addEventListener('abort', stop);
	const task = context.startJob(taskType, settings, itemIndex).catch((error) => ({ ok: false, error }));
	try {
		return await Promise.race([task, stopping]);
	} finally {
		signal?.removeEventListener('abort', stop);
		if (signal?.aborted) throw stopped();
	}
}

class RunnerJob {
	constructor() {
		this.description = {
			displayName: 'Runner Job',
			name: 'runnerJob',
			group: ['transform'],
			version: 1,
			description: 'Runs a task of any type on a task runner, including those of n8n\'s Code node',
			defaults: { name: 'Runner Job' },
			inputs: ['main'],
			outputs: ['main'],
			properties: [
				{ displayName: 'Task Type', name: 'taskType', type: 'string', default: '', required: true },
				{
					displayName: 'Mode',
					name: 'mode',
					type: 'options',
					options: [
						{ name: 'Run Once for All Items', value: 'runOnceForAllItems' },
						{ name: 'Run Once for Each Item', value: 'runOnceForEachItem' },
					],
					default: 'runOnceForAllItems',
				},
				{ displayName: 'Settings', name: 'settings', type: 'json', default: '{}' },
				{ displayName: 'Send Items', name: 'sendItems', type: 'boolean', default: true },
			],
		};
	}

	async execute() {
		const input = this.getInputData();
		const each = this.getNodeParameter('mode', 0) === 'runOnceForEachItem';
		const tasks = each ? input.map((item, index) => [[item], index]) : [[input, 0]];
		const output = [];
		let failure; // no runner took a task, or one was lost: no other task is sent
		for (const [items, itemIndex] of tasks) {
			let error = failure;
			if (!error) {
				const settings = this.getNodeParameter('settings', itemIndex);
				const taskType = this.getNodeParameter('taskType', itemIndex);
				if (ALLOWED_TASK_TYPES && !ALLOWED_TASK_TYPES.has(taskType)) {
					throw new Error(`This node may not send tasks of the type "${taskType}"`);
				}
				const outcome = await sendTask(this, taskType, {
					...(typeof settings === 'string' ? JSON.parse(settings) : settings),
					nodeName: this.getNode().name,
					...(this.getNodeParameter('sendItems', itemIndex) ? { items } : {}),
					...(each ? { itemIndex } : {}), // by which its files are read
				}, itemIndex);
				if (outcome.ok) {
					output.push(...asItems(outcome.result, itemIndex, each));
					continue;
				}
				error = asError(outcome.error);
				// A runner reports plain data. An Error is n8n's own, and the next task would end in the same way.
				const isLimit = error.message.startsWith('Task execution timed out');
				if (outcome.error instanceof Error && !isLimit) failure = error;
			}
			if (!this.continueOnFail()) throw error;
			output.push({ json: { error: error.message }, pairedItem: { item: itemIndex } });
		}
		return [output];
	}
}

module.exports = { RunnerJob };
