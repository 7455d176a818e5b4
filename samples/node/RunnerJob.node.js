'use strict';

// A node that sends its input items to a task runner as a job of any task type, and outputs the result.
// Copy it into n8n's folder ~/.n8n/custom and restart n8n: it is the node "Runner Job", of type CUSTOM.runnerJob.

// What a runner reports is plain data; n8n shows message, description and the rest only of a real Error.
function asError(reported) {
	if (reported instanceof Error) return reported;
	const { message, ...rest } = reported ?? {};
	return Object.assign(new Error(message ?? `The job failed: ${JSON.stringify(reported)}`), rest);
}

// A job may answer n8n items, plain objects, or any other JSON value.
function asItems(result, itemIndex, each) {
	return (Array.isArray(result) ? result : [result]).map((entry) => {
		const isObject = entry !== null && typeof entry === 'object' && !Array.isArray(entry);
		const item = isObject && 'json' in entry ? entry : { json: isObject ? entry : { value: entry } };
		const pairedItem = { item: itemIndex };
		// A job of one item knows it as its first; only the node knows which of its own it was.
		return each ? { ...item, pairedItem } : { pairedItem, ...item };
	});
}

class RunnerJob {
	constructor() {
		this.description = {
			displayName: 'Runner Job',
			name: 'runnerJob',
			group: ['transform'],
			version: 1,
			description: 'Runs a job of any task type on a task runner',
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
		const jobs = each ? input.map((item, index) => [[item], index]) : [[input, 0]];
		const output = [];
		for (const [items, itemIndex] of jobs) {
			const settings = this.getNodeParameter('settings', itemIndex);
			const outcome = await this.startJob(
				this.getNodeParameter('taskType', itemIndex),
				{
					...(typeof settings === 'string' ? JSON.parse(settings) : settings),
					nodeName: this.getNode().name,
					...(this.getNodeParameter('sendItems', itemIndex) ? { items } : {}),
					...(each ? { itemIndex } : {}), // by which its files are read
				},
				itemIndex,
			);
			if (outcome.ok) {
				output.push(...asItems(outcome.result, itemIndex, each));
			} else if (this.continueOnFail()) {
				output.push({ json: { error: asError(outcome.error).message }, pairedItem: { item: itemIndex } });
			} else {
				throw asError(outcome.error);
			}
		}
		return [output];
	}
}

module.exports = { RunnerJob };
