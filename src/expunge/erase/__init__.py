"""From a request to an unlearned model with its report and record: look, measure, tune, attack, choose."""
