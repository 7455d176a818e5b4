'use strict';

const { NodeConnectionTypes, NodeOperationError, sleep } = require('n8n-workflow');

const { NoAnswer, describeForExecution } = require('../../ask.js');
const { described, isExpression, listRunners, nameIn, refused, runnerField } = require('../../editing.js');
const { fieldsOf, formDifferences } = require('../../form.js');
const {
	RETRY_DELAYS, TaskFailure, argumentsFrom, asHtml, escapeHtml, objectOf, run, throwIfStopped, unansweredOf, untilStopped,
} = require('../../runtime.js');

/** Characters of a description in the list of functions. */
const LIST_WIDTH = 100;

/** The fields with the names of the runner and the function. */
const NAMES = ['runner', 'function'];

/** Milliseconds for which arguments in JSON, and a form that does not fit, rely on a runner's last answer. */
const FRESH = 1000;

const INSTEAD = 'give the function by name, and its arguments as JSON';

// --- while the node is edited ---------------------------------------------------------------------------------

/** Return the first sentence of a description, as far as it fits into a list. */
function shortened(description) {
	const [sentence] = description.split(/(?<=[.!?])\s/);
	return sentence.length > LIST_WIDTH ? `${sentence.slice(0, LIST_WIDTH - 1)}…` : sentence;
}

const listSearch = {
	listRunners,

	async listFunctions(filter) {
		const { functions } = await described(this, INSTEAD);
		const matches = ({ name, title, description }) =>
			!filter || [name, title, description].join('\n').toLowerCase().includes(filter.toLowerCase());
		return {
			// In such a list, n8n shows names only.
			results: functions.filter(matches).map(({ name, title, description }) => ({
				name: description ? `${title}: ${shortened(description)}` : title,
				value: name,
			})),
		};
	},
};

/** Return the fields of the node's function. Throws an error with a text for the author. */
async function fieldsOfFunction(context) {
	nameIn(context, 'runner', INSTEAD);
	const name = nameIn(context, 'function', INSTEAD);
	const { runner, functions } = await described(context, INSTEAD);
	const definition = functions.find((each) => each.name === name);
	if (!definition) throw refused(context, `The runner "${runner}" has no function "${name}".`);
	return { fields: fieldsOf(definition), emptyFieldsNotice: `${escapeHtml(definition.title)} has no parameters.` };
}

const resourceMapping = {
	async getArguments() {
		try {
			return await fieldsOfFunction(this);
		} catch (error) {
			// An answer without fields would remove the stored ones and their values. After an error, n8n keeps them.
			if (this.getCurrentNodeParameter('arguments.schema')?.length) throw error;
			return { fields: [], emptyFieldsNotice: escapeHtml(error.message) };
		}
	},
};

// --- while it executes ----------------------------------------------------------------------------------------

/** Return the definition of a function. Throws a `TaskFailure`. */
async function definitionOf(context, runner, name, after) {
	const begun = Date.now();
	// While the replicas of a runner are replaced, the next one to answer may have the function.
	for (let tries = 0; ; tries++) {
		throwIfStopped(context);
		let description;
		try {
			description = await untilStopped(context, describeForExecution(context, runner, after));
		} catch (error) {
			if (!(error instanceof NoAnswer)) throw error;
			throw unansweredOf(context, runner, error, Date.now() - begun);
		}
		const found = description.functions.find((each) => each.name === name);
		if (found) return { ...found, runner };
		if (tries === RETRY_DELAYS.length) {
			const names = description.functions.map((each) => each.name).join(', ') || 'none';
			const error = new NodeOperationError(context.getNode(), `The runner "${runner}" has no function "${name}"`, {
				description: asHtml(`It has: ${names}. Open the node, and choose one of them; or start the program that has it.`),
			});
			throw new TaskFailure(error);
		}
		await sleep(RETRY_DELAYS[tries]);
		after = Date.now();
	}
}

/** Return pairs of a parameter's field and its value, from the form of an item. */
function valuesOfForm(context, stored, itemIndex) {
	// n8n would convert the values by the stored fields. The runner converts them, and its errors say more.
	const given = objectOf(context.getNodeParameter('arguments.value', itemIndex, {}, { skipValidation: true }));
	// n8n shows a switch that a refresh has added as off, and stores no value of it.
	const off = stored.filter(({ id, type, removed }) => type === 'boolean' && !removed && !Object.hasOwn(given, id));
	return [...Object.entries(given), ...off.map(({ id }) => [id, false])];
}

/** Return pairs of a parameter's name and its value, from the JSON of an item. */
function valuesOfJson(context, definition, itemIndex) {
	const fail = (message, description) => {
		throw new NodeOperationError(context.getNode(), message, { itemIndex, description: asHtml(description) });
	};
	const given = context.getNodeParameter('argumentsJson', itemIndex, {});
	const expected = 'Expected an object with a value for each argument, such as {"pieces": 3}.';
	let value = given;
	try {
		if (typeof given === 'string') value = given.trim() ? JSON.parse(given) : {};
	} catch (error) {
		fail('The arguments are not JSON', `${expected} ${error.message}.`);
	}
	if (value === null || typeof value !== 'object' || Array.isArray(value)) fail('The arguments are not an object', expected);
	const unknown = Object.keys(value).find((name) => !definition.parameters.some((each) => each.name === name));
	if (unknown !== undefined) {
		const names = definition.parameters.map(({ name }) => name).join(', ') || 'none';
		fail(`The function "${definition.name}" has no parameter "${unknown}"`, `Its parameters are: ${names}.`);
	}
	return Object.entries(value);
}

/** The source of definitions and arguments: the answers of the runner, and the form or the JSON of the node. */
function liveSource(context) {
	const { parameters } = context.getNode();
	const asJson = parameters.specifyArguments === 'json';
	const schema = asJson ? undefined : objectOf(parameters.arguments).schema;
	// Without stored fields, as in a workflow that a program has written, there is nothing to compare.
	const stored = Array.isArray(schema) ? schema : [];
	const differences = (definition) => (stored.length ? formDifferences(stored, definition) : []);

	const saved = NAMES.map((field) => {
		const value = parameters[field];
		return typeof value === 'string' ? value : objectOf(value).value;
	});
	const isFixed = !saved.some(isExpression);
	function namesFor(itemIndex) {
		// Not evaluated unless it has to be: for ten thousand items, that would take its time.
		const given = isFixed
			? saved
			: NAMES.map((field) => context.getNodeParameter(field, itemIndex, '', { extractValue: true }));
		const names = given.map((name) => String(name ?? '').trim());
		const missing = names.indexOf('');
		if (missing < 0) return names;
		throw new NodeOperationError(context.getNode(), `The name of the ${NAMES[missing]} is empty`, {
			itemIndex,
			description: 'Choose one, or correct the expression.',
		});
	}

	/** Return the definition, with an empty signature if the function has changed since the form was filled in. */
	async function look(runner, name, after) {
		const definition = await definitionOf(context, runner, name, after);
		if (!differences(definition).length) return definition;
		// The answer may be from a moment before the function was changed.
		const current = await definitionOf(context, runner, name, Date.now() - FRESH);
		return differences(current).length ? { ...current, signature: '' } : current;
	}

	/** The definitions of this execution, by runner and function, or the promises of them. */
	const known = new Map();
	function definitionFor(itemIndex) {
		const names = namesFor(itemIndex);
		const key = names.join('\n');
		if (!known.has(key)) {
			const promise = look(...names, asJson ? Date.now() - FRESH : 0);
			known.set(key, promise);
			promise.then((definition) => known.set(key, definition)).catch(() => {});
		}
		return known.get(key);
	}

	return {
		changedTitle: (name) => `The function "${name}" has changed since this node's arguments were filled in`,
		changed: 'Open the node, and refresh its arguments: choose "Refresh Argument List" in their menu.',
		unknown: 'Open the node, and choose one of them.',
		definitionOf: (_context, itemIndex) => definitionFor(itemIndex),
		argumentsOf(_context, definition, itemIndex) {
			const key = asJson ? 'name' : 'field';
			const values = asJson ? valuesOfJson(context, definition, itemIndex) : valuesOfForm(context, stored, itemIndex);
			const found = values.map(([name, value]) => {
				// The runner refuses a call with a parameter that is gone.
				const parameter = definition.parameters.find((each) => each[key] === name) || { name };
				return [parameter, value];
			});
			return argumentsFrom(context, definition, found, itemIndex);
		},
		refresh: (_context, { runner, name }) => look(runner, name, Date.now()),
		differencesOf: (_context, definition) => differences(definition),
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
