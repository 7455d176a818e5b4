# RunnerConfig, RunnerConfig.from_env, ConfigurationError
from n8nrunner import ConfigurationError, Runner, RunnerConfig

environment = {"N8N_RUNNERS_AUTH_TOKEN": "secret", "N8N_RUNNERS_MAX_CONCURRENCY": "20"}
config = RunnerConfig.from_env(environment, name="leads")
assert (config.capacity, config.name) == (20, "leads")

runner = Runner(auth_token="secret", capacity=20)
assert runner.config.task_timeout == 300

try:
    Runner(auth_token="secret", capacity=0)
except ConfigurationError as error:
    print(*error.problems, sep="\n")
