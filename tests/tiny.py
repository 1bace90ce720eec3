"""The shape of the models that tests train: small enough for thousands of tests."""

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
"""Fields of ArchitectureConfig, and of transformers' configs. Weights are ten times larger than
usual, so that a token depends visibly on all before it."""
