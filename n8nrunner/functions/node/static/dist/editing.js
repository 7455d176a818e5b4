'use strict';

// The parts of nodes for their editing: the field of the runner, and questions to the runner whose errors are for the
// author of a workflow.

const { NodeOperationError } = require('n8n-workflow');

const { CannotAsk, NoAnswer, describe, listRunners: ask } = require('./ask.js');
const { objectOf } = require('./runtime.js');

const START = 'Start the Python program, with "n8nrunner run MODULE" or with runner.start(), and look at its log';

/** The field of the runner. Its node has `listRunners` under `methods.listSearch`. */
const runnerField = {
	displayName: 'Runner',
	name: 'runner',
	type: 'resourceLocator',
	required: true,
	default: { mode: 'list', value: '' },
	description: 'The name of the runner in your Python program, as in Runner(name="sales")',
	modes: [
		{
			displayName: 'From List',
			name: 'list',
			type: 'list',
			placeholder: 'Choose a runner',
			typeOptions: { searchListMethod: 'listRunners' },
		},
		{ displayName: 'By Name', name: 'name', type: 'string', placeholder: 'e.g. sales' },
	],
};

const isExpression = (value) => typeof value === 'string' && value.startsWith('=');

/** Return the value of a resource locator. It is an expression where the editor could not evaluate that. */
function chosen(context, name) {
	const saved = context.getCurrentNodeParameter(name);
	// A program may have written the workflow with a plain name.
	return String((typeof saved === 'string' ? saved : objectOf(saved).value) ?? '').trim();
}

/** Return an error with a text for the author, who reads it in the editor. */
const refused = (context, text) => new NodeOperationError(context.getNode(), text);

/** Throw an error for the author instead of one of `ask.js`. */
function explain(context, error, noAnswer, instead) {
	if (error instanceof CannotAsk) {
		throw refused(context, `This n8n cannot ask a runner while a node is edited: ${instead}.`);
	}
	throw error instanceof NoAnswer ? refused(context, noAnswer) : error;
}

/**
 * Return the name that a field has.
 *
 * @param field the field's name, "runner" or "function".
 * @param instead what the author can do if it is an expression, whose value the editor does not know.
 * @throws {NodeOperationError} with a text for the author.
 */
function nameIn(context, field, instead) {
	const name = chosen(context, field);
	if (!name) throw refused(context, `Choose a ${field} first.`);
	if (isExpression(name)) throw refused(context, `The name of the ${field} is not known before the execution: ${instead}.`);
	return name;
}

/**
 * Return the description of the node's runner.
 *
 * @param instead what the author can do where the runner cannot be asked.
 * @throws {NodeOperationError} with a text for the author.
 */
async function described(context, instead) {
	const runner = nameIn(context, 'runner', instead);
	try {
		return await describe(context, runner);
	} catch (error) {
		return explain(context, error, `No runner "${runner}" answered. ${START}.`, instead);
	}
}

/** List the runners, as a method of a node. */
async function listRunners() {
	let runners;
	try {
		runners = await ask(this);
	} catch (error) {
		return explain(this, error, undefined, 'give its name');
	}
	if (!runners.length) throw refused(this, `No runner answered. ${START}.`);
	return { results: runners.map(({ runner }) => ({ name: runner, value: runner })) };
}

module.exports = { described, isExpression, listRunners, nameIn, refused, runnerField };
