'use strict';

// The form of a function: a field for each parameter, as n8n's resource mapper shows them. n8n stores the fields with
// the workflow, so a node knows for which version of the function it was filled in.

const { differencesOf } = require('./runtime.js');

/** Return the fields of a function. Optional parameters are hidden until the author adds them. */
function fieldsOf(definition) {
	return definition.parameters.map(({ field, title, kind, required, form }) => ({
		id: field,
		displayName: kind === 'file' ? `${title} (Binary Field)` : title,
		type: form.type,
		required,
		...(form.default === undefined ? {} : { defaultValue: form.default }),
		...(form.options ? { options: form.options } : {}),
		removed: !required,
		display: true,
		defaultMatch: false,
		canBeUsedToMatch: false,
	}));
}

/** Return a field as `differencesOf` takes it. */
function inWords({ id, type, required, options }, parameters) {
	const words = options ? `one of ${options.map(({ value }) => value).join(', ')}` : `a field of type ${type}`;
	const name = parameters.find(({ field }) => field === id)?.name ?? id;
	return { id, name, required, type: words, words };
}

/**
 * Return sentences about how a function differs from stored fields. Without a difference, its calls fit.
 *
 * A new optional parameter does not count: calls without it fit.
 */
function formDifferences(stored, definition) {
	const counts = ({ id, required }) => required || stored.some((field) => field.id === id);
	const described = (fields) => fields.map((field) => inWords(field, definition.parameters));
	return differencesOf(described(stored), described(fieldsOf(definition).filter(counts)));
}

module.exports = { fieldsOf, formDifferences };
