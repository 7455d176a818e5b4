'use strict';

// Functions as tools of AI agents: what a model sees of a function, and what it gets for a call.
//
// Tools are plain objects with the members that n8n's agents and its MCP Server Trigger use, so this package needs none
// of n8n's own packages for agents: `name`, `description`, `schema` and `invoke`.

const { NodeConnectionTypes, NodeOperationError } = require('n8n-workflow');

const { NoAnswer, describeForExecution } = require('./ask.js');
const {
	TaskFailure, asHtml, errorWith, runTask, throwIfStopped, unansweredOf, untilStopped,
} = require('./runtime.js');

/** Characters of a tool's name, and of an argument's, that all providers of models accept. */
const NAME_LENGTH = 64;

/** Names that an argument cannot have: n8n's agent puts its own values under these on one level with the arguments. */
const RESERVED = ['tool', 'toolCallId', 'toolParameters', 'hitlParameters'];

/** Milliseconds until a runner has to say which functions it has: it answers at once, also with all slots taken. */
const DESCRIBING_LIMIT = 10_000;

/** Milliseconds for which a list of tools relies on a runner's last answer: an agent asks again at each of its turns. */
const LISTED = 1000;

/** The beginning of an error's text, by which n8n's MCP Server Trigger tells the text of an error from a result. */
const ERROR = 'There was an error: ';

// --- what a model sees ----------------------------------------------------------------------------------------

/** Return a name for each of `names`, as providers of models accept them: Map(name, accepted name). */
function acceptedNames(names, reserved = []) {
	const taken = new Set(reserved);
	const accepted = new Map();
	const accept = (name, wanted) => {
		let unique = wanted;
		for (let more = 1; taken.has(unique); more++) unique = wanted.slice(0, NAME_LENGTH - more) + '_'.repeat(more);
		taken.add(unique);
		accepted.set(name, unique);
	};
	const cleaned = (name) => {
		// "größe" becomes "gro_e": a letter without its accents, and "_" for every other character.
		const text = name.normalize('NFKD').replace(/\p{M}/gu, '').replace(/[^A-Za-z0-9_-]/g, '_').slice(0, NAME_LENGTH);
		return /[A-Za-z0-9]/.test(text) ? text : 'unnamed';
	};
	const isAccepted = (name) => cleaned(name) === name && !taken.has(name);
	// Names that need no change come first, so that no other name takes their place.
	const others = names.filter((name) => !isAccepted(name));
	for (const name of names.filter(isAccepted)) accept(name, name);
	for (const name of others) accept(name, cleaned(name));
	return accepted;
}

/**
 * Return what a model sees of each function: [{ name, description, schema, parameters, definition }].
 *
 * @param definitions of all functions of a runner, so that a name does not depend on which of them are offered.
 *        Those without a schema cannot be called by a model.
 */
function toolsOf(definitions) {
	const names = acceptedNames(definitions.map(({ name }) => name).sort());
	return definitions
		.filter(({ schema }) => schema)
		.map((definition) => {
			const { name, description, schema } = definition;
			const properties = Object.entries(schema.properties);
			const given = acceptedNames(properties.map(([parameter]) => parameter), RESERVED);
			return {
				name: names.get(name),
				description: description || `Calls the Python function ${name}`,
				schema: {
					...schema,
					properties: Object.fromEntries(properties.map(([parameter, value]) => [given.get(parameter), value])),
					required: schema.required.map((parameter) => given.get(parameter)),
				},
				/** The parameters, by the names that the model gives them. */
				parameters: new Map([...given].map(([parameter, accepted]) => [accepted, parameter])),
				definition,
			};
		});
}

/** Return the text of an error's description, which n8n shows as HTML. */
function asText(html) {
	const entities = { '&lt;': '<', '&gt;': '>', '&amp;': '&', '&nbsp;': ' ' };
	return (html || '')
		.replace(/<br\/?>/g, '\n')
		.replace(/<[^>]*>/g, '')
		.replace(/&(lt|gt|amp|nbsp);/g, (entity) => entities[entity]);
}

/** Return sentences as one text. */
const sentences = (...parts) => parts.filter(Boolean).map((part) => part.replace(/[.\s]*$/, '')).join('. ');

/** Return the JSON of a result's items for a model. Files are there by name, type and size. */
const resultOf = (items) => (items.length === 1 ? items[0].json : items.map(({ json }) => json));

// --- which tools there are ------------------------------------------------------------------------------------

/** Return the names that a field has: a list, or text with commas that an expression returns. */
function namesIn(value) {
	const list = Array.isArray(value) ? value : String(value ?? '').split(',');
	return list.map((name) => String(name).trim()).filter(Boolean);
}

/** Return the description of the node's runner, not older than `after`. Throws an error whose message says everything. */
async function descriptionOf(context, runner, after) {
	throwIfStopped(context);
	const begun = Date.now();
	try {
		return await untilStopped(context, describeForExecution(context, runner, after, DESCRIBING_LIMIT));
	} catch (error) {
		if (!(error instanceof NoAnswer)) throw error;
		const { message, description } = unansweredOf(context, runner, error, Date.now() - begun).error;
		// n8n shows only the message of a sub-node's error.
		throw errorWith(context, sentences(message, asText(description)));
	}
}

/** Return the tools that the node offers. Throws an error if there is none. */
async function offeredTools(context, itemIndex, after) {
	const runner = String(context.getNodeParameter('runner', itemIndex, '', { extractValue: true }) ?? '').trim();
	if (!runner) throw errorWith(context, 'No runner is chosen. Open the node, and choose one.');
	const include = context.getNodeParameter('include', itemIndex, 'all');
	const names = include === 'all' ? [] : namesIn(context.getNodeParameter('functions', itemIndex, []));
	const isOffered = {
		all: () => true,
		chosen: ({ name }) => names.includes(name),
		except: ({ name }) => !names.includes(name),
	}[include];
	const { functions } = await descriptionOf(context, runner, after);
	const tools = toolsOf(functions.map((definition) => ({ ...definition, runner })));
	const offered = tools.filter(({ definition }) => isOffered(definition));
	if (offered.length) return offered;
	const found = tools.map(({ definition }) => definition.name).join(', ') || 'none';
	throw errorWith(context, `No function of the runner "${runner}" is offered as a tool. It can offer: ${found}.`);
}

// --- calls ----------------------------------------------------------------------------------------------------

/** The failure of a call: `text` is for the model, `error` for the author. */
class CallFailure {
	constructor(context, text, { itemIndex, stack } = {}) {
		this.text = text;
		this.error = errorWith(context, text, { itemIndex, description: stack && `<code>${asHtml(stack)}</code>` });
	}
}

/** Return the arguments for the function, by parameter. Throws a `CallFailure` for an argument that it does not take. */
function argumentsOf(context, tool, given, itemIndex) {
	const { name, parameters } = tool;
	const unknown = Object.keys(given).find((argument) => !parameters.has(argument));
	if (unknown !== undefined) {
		const known = [...parameters.keys()].join(', ') || 'none';
		throw new CallFailure(context, `${name} has no argument "${unknown}". Its arguments: ${known}.`, { itemIndex });
	}
	return Object.fromEntries(Object.entries(given).map(([argument, value]) => [parameters.get(argument), value]));
}

/** Where the tasks of tools have their definitions from: the runner. */
const source = {
	changedTitle: (name) => `The function "${name}" has changed since its tool was offered`,
	changed: 'Call it again, as it is now.',
	unknown: '',
	differencesOf: () => [],
	async refresh(context, definition) {
		const { runner, name } = definition;
		try {
			const { functions } = await untilStopped(context, describeForExecution(context, runner, Date.now()));
			return { ...(functions.find((each) => each.name === name) || definition), runner };
		} catch (error) {
			if (error instanceof NoAnswer) return definition; // the next try has an error with a better text
			throw error;
		}
	},
};

/** Call a function. Returns the items of its result. Throws a `CallFailure`. */
async function callTool(context, tool, given, itemIndex) {
	const call = { item: itemIndex, arguments: argumentsOf(context, tool, given, itemIndex) };
	let answer;
	try {
		answer = await runTask(context, source, tool.definition, [call], optionsOf(context, itemIndex));
	} catch (thrown) {
		if (!(thrown instanceof TaskFailure)) throw thrown;
		const { message, description } = thrown.error;
		throw new CallFailure(context, sentences(message, asText(description)), { itemIndex });
	}
	const [failed] = answer.errors || [];
	if (!failed) return answer.items || [];
	const { message, description, stack } = failed;
	// The message has the exception, or the argument that does not fit. A `TaskError` may say more.
	const isComplete = stack || /^Item \d+, parameter /.test(description);
	throw new CallFailure(context, isComplete ? message : sentences(message, description), { itemIndex, stack });
}

const optionsOf = (context, itemIndex) => context.getNodeParameter('options', itemIndex, {}) || {};

/**
 * Return the arguments of a call that n8n's agent makes through an item, as the model has given them.
 *
 * The item itself has the fields of the agent's own input as well: an argument that the model has left out would get the
 * value of a field of the same name. n8n does not document the place where it keeps the arguments alone. Returns
 * undefined if they are not there, as in n8n 1.
 */
function argumentsAlone(context, itemIndex) {
	const runs = context.runExecutionData?.resultData?.runData?.[context.getNode().name];
	const kept = runs?.[context.runIndex]?.inputOverride?.[NodeConnectionTypes.AiTool]?.[0]?.[itemIndex]?.json;
	if (!kept || Object.hasOwn(kept, 'toolCallId')) return undefined;
	const { tool, ...given } = kept;
	return given;
}

/** Return the arguments in the text of an agent that knows only text: a JSON object, or the value of the only argument. */
function argumentsInText(tool, text) {
	try {
		const value = JSON.parse(text);
		if (value !== null && typeof value === 'object' && !Array.isArray(value)) return value;
	} catch {
		// Not JSON: below.
	}
	return tool.parameters.size === 1 ? { [[...tool.parameters.keys()][0]]: text } : {};
}

/** Return the tool as n8n's agents and its MCP Server Trigger take it. */
function invokable(context, tool, itemIndex) {
	const { name, description, schema } = tool;
	return {
		name,
		description,
		schema,
		// n8n 2 sets these itself.
		metadata: { isFromToolkit: true, sourceNodeName: context.getNode().name },
		async invoke(input) {
			const given = typeof input === 'string' ? argumentsInText(tool, input) : input || {};
			const { index } = context.addInputData(NodeConnectionTypes.AiTool, [[{ json: { ...given, tool: name } }]]);
			try {
				const items = await callTool(context, tool, given, itemIndex);
				context.addOutputData(NodeConnectionTypes.AiTool, index, [items]);
				return JSON.stringify(resultOf(items));
			} catch (thrown) {
				const failed = thrown instanceof CallFailure;
				context.addOutputData(NodeConnectionTypes.AiTool, index, failed ? thrown.error : thrown);
				if (!failed) throw thrown;
				return ERROR + thrown.text;
			}
		},
	};
}

/** Return the tools of a node, as its `supplyData` returns them. */
async function supplyTools(context, itemIndex) {
	const offered = await offeredTools(context, itemIndex, Date.now() - LISTED);
	const tools = offered.map((tool) => invokable(context, tool, itemIndex));
	// n8n 2 takes an object with these members for several tools, and n8n 1 a list.
	return { response: Object.assign([...tools], { tools, getTools: () => tools }) };
}

/** Make the call of an item. Returns the items of its result. */
async function executeCall(context, itemIndex) {
	const { json } = context.getInputData()[itemIndex];
	const alone = argumentsAlone(context, itemIndex);
	try {
		const tools = await offeredTools(context, itemIndex);
		const tool = tools.find(({ name }) => name === json.tool);
		if (!tool) {
			const names = tools.map(({ name }) => name).join(', ');
			throw new CallFailure(context, `There is no tool "${json.tool}". The tools: ${names}.`, { itemIndex });
		}
		const named = () => Object.fromEntries(Object.entries(json).filter(([name]) => tool.parameters.has(name)));
		return await callTool(context, tool, alone || named(), itemIndex);
	} catch (thrown) {
		if (!(thrown instanceof CallFailure)) throw new NodeOperationError(context.getNode(), thrown, { itemIndex });
		// n8n 2 gives the error's message to the model. In n8n 1, an error would end the workflow.
		if (alone) throw thrown.error;
		return [{ json: { error: thrown.text }, pairedItem: { item: itemIndex } }];
	}
}

/** Make the calls of the node's items: n8n's agent calls tools in this way. Returns the items of the node's output. */
async function executeTools(context) {
	const output = [];
	for (const itemIndex of context.getInputData().keys()) output.push(...(await executeCall(context, itemIndex)));
	return [output];
}

module.exports = { executeTools, supplyTools };
