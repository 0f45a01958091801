"""The reward as each trainer calls it, one module a trainer; none imports its trainer.

========== ============================================================= ==========================
module     give the trainer                                              samples a call
========== ============================================================= ==========================
trl        `TRLReward`, `AsyncTRLReward` as ``reward_funcs``             a batch
verl       ``compute_score``, ``compute_score_sync``                     one
openrlhf   the file's path, with ``reward_func``                         one
nemo_rl    ``RecEnvironmentActor``                                       a batch
slime      ``custom_rm``                                                 one, or a group
areal      ``reward_fn``                                                 one
========== ============================================================= ==========================

Functions that a trainer finds by name take the options of `RecReward` from the environment variable
``RL4REC_REWARD``, a JSON object such as ``{"dataset_name": "beauty", "reward_type": "logrank"}``.
"""
