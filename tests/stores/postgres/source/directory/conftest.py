from tests.systems.fixtures import _system_templates, system, systems

__all__ = ["_system_templates", "system", "systems"]
