'use strict';

const { NodeConnectionTypes } = require('n8n-workflow');

const { described, listRunners, runnerField } = require('../../editing.js');
const { escapeHtml } = require('../../runtime.js');
const { executeTools, supplyTools } = require('../../tools.js');

const INSTEAD = 'give the names of the functions by an expression';

/** The title and the description are those that n8n wants of such a field. */
const FUNCTIONS = {
	displayName: 'Function Names or IDs',
	name: 'functions',
	type: 'multiOptions',
	default: [],
	typeOptions: { loadOptionsMethod: 'getFunctions', loadOptionsDependsOn: ['runner.value'] },
	displayOptions: { show: { include: ['chosen', 'except'] } },
	description:
		'Choose from the list, or specify IDs using an <a href="https://docs.n8n.io/code/expressions/">expression</a>',
	hint: 'An expression gives a list of names, or names with commas between them',
};

class PythonTools {
	description = {
		displayName: 'Python Tools',
		name: 'pythonTools',
		icon: { light: 'file:pythonTools.svg', dark: 'file:pythonTools.dark.svg' },
		group: ['output'],
		version: 1,
		subtitle: '={{ $parameter["runner"].value }}',
		description: 'Gives functions of your Python program to an AI agent, or to an MCP client, as tools',
		defaults: { name: 'Python Tools' },
		inputs: [],
		outputs: [NodeConnectionTypes.AiTool],
		outputNames: ['Tool'],
		properties: [
			runnerField,
			{
				displayName: 'Functions to Offer',
				name: 'include',
				type: 'options',
				noDataExpression: true,
				default: 'all',
				description: 'Which functions are tools. A function that needs a file cannot be one.',
				options: [
					{ name: 'All', value: 'all', description: 'All functions of the runner, also later ones' },
					{ name: 'All Except', value: 'except', description: 'All functions but those below' },
					{ name: 'Only Chosen', value: 'chosen', description: 'The functions below' },
				],
			},
			FUNCTIONS,
			{
				displayName: 'Options',
				name: 'options',
				type: 'collection',
				placeholder: 'Add option',
				default: {},
				options: [
					{
						displayName: 'Time Limit',
						name: 'timeLimit',
						type: 'number',
						typeOptions: { minValue: 0 },
						default: 60,
						description:
							'How many seconds a call may take. The runner ends a call at this limit or at its own, the smaller one.',
					},
				],
			},
		],
	};

	methods = {
		listSearch: { listRunners },
		loadOptions: {
			async getFunctions() {
				const saved = this.getCurrentNodeParameter('functions');
				const names = Array.isArray(saved) ? saved.filter(Boolean) : [];
				let functions;
				try {
					({ functions } = await described(this, INSTEAD));
				} catch (error) {
					// n8n would show a message of its own in place of the names that are chosen.
					const asSaved = names.map((name) => ({ name, value: name }));
					return [{ name: 'The functions cannot be listed', value: '', description: escapeHtml(error.message) }, ...asSaved];
				}
				const missing = names.filter((name) => !functions.some((each) => each.name === name));
				return [
					...functions
						.filter(({ schema }) => schema)
						.map(({ title, name, description }) => ({ name: title, value: name, description: escapeHtml(description) })),
					...missing.map((name) => ({ name, value: name, description: 'The runner has no function of this name' })),
				];
			},
		},
	};

	async supplyData(itemIndex) {
		return await supplyTools(this, itemIndex);
	}

	/** n8n's agent makes its calls through this: each is an item. */
	async execute() {
		return await executeTools(this);
	}
}

module.exports = { PythonTools };
