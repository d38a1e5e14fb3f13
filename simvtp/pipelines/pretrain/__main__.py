"""`python -m simvtp.pipelines.pretrain`."""

from simvtp.pipelines.pretrain.command import main
from simvtp.trainer.job import end_with

if __name__ == "__main__":
    end_with(main())
