'use strict';

const { NodeConnectionTypes, NodeOperationError, sleep } = require('n8n-workflow');

const { NoAnswer, describeForExecution } = require('../../ask.js');
const { chosen, described, listRunners, runnerField } = require('../../editing.js');
const { fieldsOf, formDifferences, plain } = require('../../form.js');
const { TaskFailure, argumentsFrom, asHtml, failureOf, objectOf, run, untilStopped } = require('../../runtime.js');

/** Milliseconds between two questions while another replica of the runner may have the function. */
const RETRY_DELAYS = [250, 500, 1000];

const REFRESH = 'Open the node, and refresh its arguments.';

// --- while the node is edited ---------------------------------------------------------------------------------

const INSTEAD = 'give the function by name, and its arguments as JSON';

const listSearch = {
	listRunners,

	async listFunctions(filter) {
		const { functions } = await described(this, INSTEAD);
		const matches = ({ name, title, description }) =>
			!filter || [name, title, description].join('\n').toLowerCase().includes(filter.toLowerCase());
		return {
			results: functions.filter(matches).map(({ name, title, description }) => ({
				name: title,
				value: name,
				description: plain(description),
			})),
		};
	},
};

const resourceMapping = {
	async getArguments() {
		const name = chosen(this, 'function');
		if (!name) return { fields: [], emptyFieldsNotice: 'Choose a function: its parameters become fields here.' };
		const { runner, functions } = await described(this, INSTEAD);
		const definition = functions.find((each) => each.name === name);
		if (!definition) throw new NodeOperationError(this.getNode(), `The runner "${runner}" has no function "${name}"`);
		return {
			fields: fieldsOf(definition),
			emptyFieldsNotice: plain(`${definition.title} has no parameters.`),
		};
	},
};

// --- while it executes ----------------------------------------------------------------------------------------

/** Return the definition of a function. Throws a `TaskFailure`. */
async function definitionOf(context, runner, name, after) {
	const begun = Date.now();
	for (let tries = 0; ; tries++) {
		let description;
		try {
			description = await untilStopped(context, describeForExecution(context, runner, after));
		} catch (error) {
			if (!(error instanceof NoAnswer)) throw error;
			throw failureOf(context, { runner }, error.cause, [{ item: 0 }], Date.now() - begun);
		}
		const found = description.functions.find((each) => each.name === name);
		if (found) return { ...found, runner };
		if (tries === RETRY_DELAYS.length) {
			const names = description.functions.map((each) => each.name).join(', ') || 'none';
			throw new TaskFailure(
				new NodeOperationError(context.getNode(), `The runner "${runner}" has no function "${name}"`, {
					description: asHtml(
						`It has: ${names}. Open the node, and choose one of them; or start the program that has "${name}".`,
					),
				}),
			);
		}
		await sleep(RETRY_DELAYS[tries]);
		after = Date.now();
	}
}

/** Return the arguments that the author gives as a JSON object, by parameter. */
function argumentsAsJson(context, itemIndex) {
	const given = context.getNodeParameter('argumentsJson', itemIndex, {});
	let value = given;
	try {
		if (typeof given === 'string') value = given.trim() ? JSON.parse(given) : {};
	} catch (error) {
		throw new NodeOperationError(context.getNode(), `Arguments (JSON): ${error.message}`, { itemIndex });
	}
	if (value === null || typeof value !== 'object' || Array.isArray(value)) {
		throw new NodeOperationError(context.getNode(), 'Arguments (JSON): expected an object with an entry for each argument', {
			itemIndex,
		});
	}
	return value;
}

/** The source of definitions and arguments: the runner, and the fields or the JSON of the node. */
function liveSource(context) {
	const asJson = context.getNodeParameter('specifyArguments', 0, 'fields') === 'json';
	const stored = objectOf(context.getNode().parameters.arguments).schema || [];
	/** The definitions of this execution, by runner and function, or promises of them. */
	const known = new Map();

	/** Return the definition, with an empty signature if the stored fields are not those of the function. */
	async function look(runner, name, after) {
		let definition = await definitionOf(context, runner, name, after);
		if (asJson || !formDifferences(stored, definition).length) return definition;
		// This process may have asked before the function changed.
		if (!after) definition = await definitionOf(context, runner, name, Date.now());
		return formDifferences(stored, definition).length ? { ...definition, signature: '' } : definition;
	}

	const named = (name, itemIndex) => String(context.getNodeParameter(name, itemIndex, '', { extractValue: true }) ?? '');

	return {
		changedTitle: (name) => `The function "${name}" has changed since its arguments were filled in`,
		changed: REFRESH,
		unknown: 'Open the node, and choose one of them.',
		definitionOf(_context, itemIndex) {
			const names = [named('runner', itemIndex), named('function', itemIndex)];
			const key = JSON.stringify(names);
			if (!known.has(key)) {
				const promise = look(...names).then((definition) => {
					known.set(key, definition);
					return definition;
				});
				known.set(key, promise);
			}
			return known.get(key);
		},
		argumentsOf(_context, definition, itemIndex) {
			if (asJson) {
				const given = argumentsAsJson(context, itemIndex);
				const values = Object.entries(given).map(([name, value]) => [
					definition.parameters.find((each) => each.name === name) || { name },
					value,
				]);
				return argumentsFrom(context, definition, values, itemIndex);
			}
			// n8n would convert the values by the stored fields; the runner does that with better messages.
			const given = objectOf(context.getNodeParameter('arguments.value', itemIndex, {}, { skipValidation: true }));
			const values = Object.entries(given).map(([field, value]) => [
				definition.parameters.find((each) => each.field === field) || { name: field },
				value,
			]);
			return argumentsFrom(context, definition, values, itemIndex);
		},
		refresh: ({ runner, name }) => look(runner, name, Date.now()),
		differencesOf: (_context, definition) => (asJson ? [] : formDifferences(stored, definition)),
	};
}

// --- the node -------------------------------------------------------------------------------------------------

const properties = [
	runnerField,
	{
		displayName: 'Function',
		name: 'function',
		type: 'resourceLocator',
		required: true,
		default: { mode: 'list', value: '' },
		description: 'The Python function to call for each item',
		typeOptions: { loadOptionsDependsOn: ['runner.value'] },
		modes: [
			{
				displayName: 'From List',
				name: 'list',
				type: 'list',
				placeholder: 'Choose a function',
				typeOptions: { searchListMethod: 'listFunctions', searchable: true },
			},
			{ displayName: 'By Name', name: 'name', type: 'string', placeholder: 'e.g. quote' },
		],
	},
	{
		displayName: 'Specify Arguments',
		name: 'specifyArguments',
		type: 'options',
		noDataExpression: true,
		default: 'fields',
		options: [
			{ name: 'Using Fields Below', value: 'fields' },
			{ name: 'Using JSON', value: 'json' },
		],
	},
	{
		displayName: 'Arguments',
		name: 'arguments',
		type: 'resourceMapper',
		noDataExpression: true,
		required: true,
		default: { mappingMode: 'defineBelow', value: null },
		displayOptions: { show: { specifyArguments: ['fields'] } },
		typeOptions: {
			loadOptionsDependsOn: ['runner.value', 'function.value'],
			resourceMapper: {
				resourceMapperMethod: 'getArguments',
				mode: 'add',
				valuesLabel: 'Arguments',
				fieldWords: { singular: 'argument', plural: 'arguments' },
				supportAutoMap: false,
				multiKeyMatch: false,
				refreshStaleSchemaOnOpen: true,
			},
		},
	},
	{
		displayName: 'Arguments (JSON)',
		name: 'argumentsJson',
		type: 'json',
		default: '{}',
		displayOptions: { show: { specifyArguments: ['json'] } },
		description: 'An object with a value for each parameter; a file is the name of one of the item\'s files',
	},
	{
		displayName: 'Options',
		name: 'options',
		type: 'collection',
		placeholder: 'Add option',
		default: {},
		options: [
			{
				displayName: 'Batch Size',
				name: 'batchSize',
				type: 'number',
				typeOptions: { minValue: 1, numberPrecision: 0 },
				default: 50,
				description:
					'How many items one task takes. Fewer items spread over more slots and runners, and each task has its ' +
					'time limit to itself. Unless it is set, a function that takes all items at once gets them all, and every ' +
					'other function gets 50 in each task.',
			},
			{
				displayName: 'Parallel Tasks',
				name: 'parallelTasks',
				type: 'number',
				typeOptions: { minValue: 1, numberPrecision: 0 },
				default: 5,
				description:
					"How many tasks of this node may be under way at once. Tasks beyond the runners' free slots wait, and n8n " +
					'gives up on a task that has waited for a minute.',
			},
			{
				displayName: 'Time Limit',
				name: 'timeLimit',
				type: 'number',
				typeOptions: { minValue: 0 },
				default: 60,
				description:
					'How many seconds one task may take. The runner ends a task at this limit or at its own, the smaller one.',
			},
		],
	},
];

class PythonFunction {
	description = {
		displayName: 'Python Function',
		name: 'pythonFunction',
		icon: { light: 'file:pythonFunction.svg', dark: 'file:pythonFunction.dark.svg' },
		group: ['transform'],
		version: 1,
		subtitle: '={{ $parameter["function"].value }}',
		description: 'Calls a function of your Python program',
		defaults: { name: 'Python Function' },
		inputs: [NodeConnectionTypes.Main],
		outputs: [NodeConnectionTypes.Main],
		usableAsTool: true,
		properties,
	};

	methods = { listSearch, resourceMapping };

	async execute() {
		return await run(this, liveSource(this));
	}
}

module.exports = { PythonFunction };
