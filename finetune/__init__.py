"""From a corpus to a trained adapter: `prepare` cleans and splits, `finetune` trains."""
