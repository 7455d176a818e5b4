'use strict';

// The form of a function: a field for each parameter, as n8n's resource mapper shows them. n8n stores the fields with
// the workflow, so a node knows for which version of the function it was filled in.

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

const valuesOf = ({ options }) => (options || []).map(({ value }) => value);

const words = (field) => (field.options ? `one of ${valuesOf(field).join(', ')}` : `a field of type ${field.type}`);

/**
 * Return sentences about how a function differs from stored fields. Without a difference, its calls fit.
 *
 * A new optional parameter does not count: calls without it fit.
 */
function formDifferences(stored, definition) {
	const current = fieldsOf(definition);
	const nameOf = (id) => definition.parameters.find(({ field }) => field === id)?.name ?? id;
	const differences = [];
	for (const field of stored) {
		const other = current.find(({ id }) => id === field.id);
		const name = nameOf(field.id);
		if (!other) differences.push(`Parameter "${name}" is gone`);
		else if (words(other) !== words(field)) differences.push(`Parameter "${name}" was ${words(field)} and is ${words(other)}`);
		else if (other.required && !field.required) differences.push(`Parameter "${name}" is required now`);
	}
	for (const { id, required } of current) {
		if (required && !stored.some((field) => field.id === id)) differences.push(`Parameter "${nameOf(id)}" is new, and required`);
	}
	return differences;
}

module.exports = { fieldsOf, formDifferences };
