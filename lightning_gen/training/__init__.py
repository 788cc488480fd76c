"""The only training loop, and its parts."""

import warnings

NOT_OURS = (  # warnings of Lightning that do not apply to these models
    ".*does not have many workers.*",  # data in memory need none
    ".*The number of training batches.*",  # the models log by themselves, by iterations
    ".*ended before the epoch ended and your dataloader is not resumable.*",  # the data sets' loaders are
    ".*module.s. in eval mode at the start of training.*",  # the moving averages
    ".*It is recommended to use .*sync_dist.*",  # they are means over all ranks already
    ".*isinstance.treespec, LeafSpec.*",  # of Lightning's own code
    ".*The `srun` command is available.*",  # which says no more than that there is Slurm
)

for _message in NOT_OURS:
    warnings.filterwarnings("ignore", _message)
