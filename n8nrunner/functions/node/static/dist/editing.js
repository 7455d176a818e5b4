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

/** Return the value of a resource locator as it is saved: an expression is not evaluated. */
const chosen = (context, name) => String(objectOf(context.getCurrentNodeParameter(name)).value ?? '').trim();

/**
 * Return the description of the node's runner.
 *
 * @param instead what the author can do where the runner cannot be asked.
 * @throws {NodeOperationError} with a text for the author.
 */
async function described(context, instead) {
	const runner = chosen(context, 'runner');
	if (!runner) throw new NodeOperationError(context.getNode(), 'Choose a runner first');
	if (isExpression(runner)) {
		throw new NodeOperationError(context.getNode(), `The runner is an expression: ${instead}`);
	}
	try {
		return await describe(context, runner);
	} catch (error) {
		throw explained(context, error, `No runner "${runner}" answered. ${START}.`, instead);
	}
}

function explained(context, error, noAnswer, instead) {
	if (error instanceof NoAnswer) return new NodeOperationError(context.getNode(), noAnswer);
	if (!(error instanceof CannotAsk)) return error;
	const message = `This n8n cannot ask a runner while a node is edited: ${instead}`;
	return new NodeOperationError(context.getNode(), message);
}

/** List the runners, as a method of a node. */
async function listRunners() {
	let runners;
	try {
		runners = await ask(this);
	} catch (error) {
		throw explained(this, error, undefined, 'give its name');
	}
	if (!runners.length) throw new NodeOperationError(this.getNode(), `No runner answered. ${START}.`);
	return {
		results: runners.map(({ runner, functionCount, state }) => ({
			name: runner,
			value: runner,
			description: state === 'stopping' ? 'It stops' : `${functionCount} functions`,
		})),
	};
}

module.exports = { chosen, described, listRunners, runnerField };
