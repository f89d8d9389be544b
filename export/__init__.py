"""From a run directory to one GGUF file: `export` merges and writes, `verify` checks it against the trained model."""
