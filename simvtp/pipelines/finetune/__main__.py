"""`python -m simvtp.pipelines.finetune`."""

from simvtp.pipelines.finetune.command import main
from simvtp.trainer.job import end_with

if __name__ == "__main__":
    end_with(main())
