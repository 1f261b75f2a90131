"""Where each number came from: records, audit, archive, explanation, comparison, RO-Crate."""
