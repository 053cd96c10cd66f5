"""What whoever acts on a breaker has to say, in the admin and on the dashboard."""

from __future__ import annotations

from typing import Any

from django import forms

from .actions import ACTIONS


class ControlForm(forms.Form):
    """What whoever acts on a breaker has to say."""

    action = forms.ChoiceField(choices=[(name, action.label) for name, action in ACTIONS.items()])
    reason = forms.CharField(
        max_length=500,
        help_text="It is kept in the history, with your name.",
        widget=forms.TextInput({"class": "vTextField"}),
    )
    minutes = forms.IntegerField(
        label="For how many minutes",
        required=False,
        min_value=1,
        max_value=400 * 24 * 60,
        help_text="Then it is automatic again. Leave it empty for: until somebody ends it.",
        widget=forms.NumberInput({"class": "vIntegerField"}),
    )

    def clean(self) -> dict[str, Any]:
        """An end belongs to what lasts."""
        data = super().clean() or {}
        action = ACTIONS.get(data.get("action", ""))
        if action and data.get("minutes") and not action.may_end:
            self.add_error("minutes", f"“{action.label}” is done at once: leave this empty.")
        return data
